import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # so that the folder is the package `fuzz`
from fuzz import main

sys.exit(main())
