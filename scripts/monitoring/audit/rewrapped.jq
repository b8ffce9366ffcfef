# Finds answers of reset and reveal that somebody wrapped again: the password can then be taken
# for a whole reveal_ttl more, and again after that.
#
#   audit-lines audit.log | jq -nRc -f rewrapped.jq
#
# What to do: nobody needs it. Take `update` on sys/wrapping/rewrap out of that person's policies;
# it is not in `default`. If he is not the one for whom it was wrapped: bao write smtp/<tenant>/reset.

include "lines" {search: "./"};

def full($path): (.request.namespace.path // "") + $path;
def emergency: startswith($ARGS.named.mount // "smtp/")
  and (.[($ARGS.named.mount // "smtp/") | length:] | test("^[^/]+/(reset|reveal)$"));

findings(
  audit_lines
  | if .rule then . else
      select(.type == "response" and .error == null and .request.path == "sys/wrapping/rewrap")
      | select(.response.wrap_info.creation_path?)
      | select(full(.response.wrap_info.creation_path) | emergency)
      | {
          rule: "rewrapped",
          time,
          path: full(.response.wrap_info.creation_path),
          by: .auth.display_name,
          entity_id: .auth.entity_id,
          remote_address: .request.remote_address,
          request_id: .request.id
        }
    end
)
