"""The notebooks of the tree, and what no page made of them may hold."""

import re

from k2lib.notebook.runner import notebooks_folder

KEPT = sorted(notebooks_folder().glob("[!.]*.ipynb"))
FROM_THE_NET = re.compile(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(["']?https?:""")
