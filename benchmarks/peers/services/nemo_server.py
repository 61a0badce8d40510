"""The server of NeMo Guardrails as its own command starts it, but on an address of one's choice: that one binds 0.0.0.0.

CONFIGS=DIR uvicorn --app-dir FOLDER nemo_server:app
"""

import os

from nemoguardrails.server.api import app

app.rails_config_path = os.environ["CONFIGS"]
app.disable_chat_ui = True
