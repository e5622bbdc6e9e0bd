import sys

from microgpt.fuzz import main

sys.exit(main())
