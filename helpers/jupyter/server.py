"""Run JupyterLab, and end its process when it has closed.

File > Shut Down stops JupyterLab's event loop whatever it is doing. A request that is not answered by then,
such as one for a folder's contents, leaves a thread behind for which Python waits forever at the end of the
process, deaf to SIGTERM (jupyter_server 2.21 with anyio 4.16, 2026-12).
"""

import atexit
import os
import sys

from jupyterlab.labapp import main

try:
    status = main()
except SystemExit as ended:
    status = ended.code
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(status if isinstance(status, int) else int(status is not None))
