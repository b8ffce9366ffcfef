# Finds calls of events/emit, events/flush and events/ack by anybody but the emitter's AppRole.
#
#   audit-lines audit.log | jq -nRc --arg role smtp-emitter -f audit-calls.jq
#
# What to do: nothing can be forged by these calls, and the log has each of them. But nobody else
# has to make them: with "allowed": true a policy is too wide. A person who writes an event once
# more on purpose, as audit-verify advises, is found too.

include "lines" {search: "./"};

def full: (.request.namespace.path // "") + .request.path;
def of_audit: startswith($ARGS.named.mount // "smtp/")
  and (.[($ARGS.named.mount // "smtp/") | length:] | test("^events/(emit/|flush$|ack$)"));

($ARGS.named.role // error("name the emitter's role: --arg role <name>")) as $role
| findings(
  audit_lines
  | if .rule then . else
      select(.type == "request" and (.request.path? | type == "string"))
      | select(full | of_audit)
      | select(.auth.metadata.role_name? != $role)
      | {
          rule: "audit-calls",
          time,
          path: full,
          allowed: (.error == null),
          by: .auth.display_name,
          entity_id: .auth.entity_id,
          remote_address: .request.remote_address,
          request_id: .request.id
        }
    end
)
