# The development server of scripts/dev; never for anything else.
#
# Started as `bao server -dev -config=vault-dev.hcl`: in memory, unsealed, on the address of
# -dev-listen-address. Paths are relative to the directory in which the server is started.

# Only files in here can be registered as plugins.
plugin_directory = "plugins"

# OpenBao takes audit devices from its configuration only. HashiCorp Vault ignores this block with
# a warning; scripts/dev enables the same device through the API there.
audit "file" "file" {
  options = {
    file_path = "audit.log"
  }
}

log_level = "info"
