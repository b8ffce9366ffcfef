# Finds requests to reset or reveal a password that no policy allows.
#
#   audit-lines audit.log | jq -nRc -f denied-emergency.jq
#
# What to do: one is a mistake or a missing policy; several, or for several tenants, are somebody
# trying. The entity and the address say who. "by": null had no valid token at all. A denied batch
# of resets is not found: what a request to batches would have done is hashed.

include "lines" {search: "./"};

def full: (.request.namespace.path // "") + .request.path;
def emergency: startswith($ARGS.named.mount // "smtp/")
  and (.[($ARGS.named.mount // "smtp/") | length:] | test("^[^/]+/(reset|reveal)$"));

findings(
  audit_lines
  | if .rule then . else
      # What is denied has its error in the request line already; what the engine refuses does not.
      select(.type == "request" and .error and (.request.path? | type == "string"))
      | select(full | emergency)
      | {
          rule: "denied-emergency",
          time,
          path: full,
          by: .auth.display_name,
          entity_id: .auth.entity_id,
          remote_address: .request.remote_address,
          error: (.error | gsub("\\s+"; " ")),
          request_id: .request.id
        }
    end
)
