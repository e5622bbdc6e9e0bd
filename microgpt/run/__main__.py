import sys

from microgpt.run import main

sys.exit(main())
