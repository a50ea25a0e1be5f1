"""The last module that the process of `processes.fork_context` imports: garbage collection then copies nothing shared.

It writes to every object that it visits, so the first full collection in a fork would copy all that was imported. For
the stages of the demo, that would be 170 MB in half a second.
"""

import gc

gc.freeze()
