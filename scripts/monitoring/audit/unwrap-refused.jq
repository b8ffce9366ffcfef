# Finds refused attempts to open a wrapped answer: the sign that somebody else opened it first.
#
#   audit-lines audit.log.1 audit.log | jq -nRc -f unwrap-refused.jq
#   audit-lines audit.log | jq -nRc --arg mount team1/smtp/ -f unwrap-refused.jq
#
# What to do: "of" names the reset or reveal whose token it was. Ask the person it was for. If he
# did not see the password himself, somebody else did: bao write smtp/<tenant>/reset. With
# "expired": true he may just have been late. "of": null is a token that these logs do not know:
# one of an older log, mistyped, or in the JWT format. Tokens that other engines wrapped are left
# out. "accessor" and "token" are HMACs: grep for them in the log of the same audit device to see
# who it was.
#
# The host writes no response line for a token that is not valid, only the request with an error.
# HMACs differ between audit devices: give the logs of one device, the older ones too.

include "lines" {search: "./"};

def full($path): (.request.namespace.path // "") + $path;
def emergency: startswith($ARGS.named.mount // "smtp/")
  and (.[($ARGS.named.mount // "smtp/") | length:] | test("^[^/]+/(reset|reveal)$"));
def seconds: sub("\\.[0-9]+"; "") | fromdateiso8601;
def opening: .request.path | IN("sys/wrapping/unwrap", "sys/wrapping/rewrap", "cubbyhole/response");
# The tokens it may be about, the likeliest first: the one in the body, else the caller's own. Which of
# the last two has the HMAC of the token in a JWT differs between hosts.
def tokens:
  [.request.data.token?, .auth.client_token?, .request.client_token?]
  | map(select(type == "string" and . != ""));

def wrap: .type == "response" and .response.wrap_info.token?;
def refused: .type == "request" and .error and opening;

findings(
  # Collected as a list, not line by line into an object: anybody can be refused a million times, and
  # jq copies what is in an object with each.
  [audit_lines | select(.rule or wrap or refused)] as $lines
  | (
      reduce ($lines[] | select(wrap)) as $line (
        {};
        $line.response.wrap_info as $wrap
        | .[$wrap.token] = {
            path: ($line | full($wrap.creation_path)),
            time: $wrap.creation_time,
            ttl: $wrap.ttl,
            for: $line.auth.display_name
          }
      )
    ) as $wrapped
  | $lines[]
  | if .rule then . else
      select(refused)
      | tokens as $tokens
      | ([$tokens[] | select($wrapped[.])] + $tokens | first) as $token
      | (if $token then $wrapped[$token] else null end) as $of
      # Anybody's own cubbyhole: only the one of a wrapping token is meant.
      | select($of or .request.path != "cubbyhole/response")
      | select($of == null or ($of.path | emergency))
      | {
          rule: "unwrap-refused",
          time,
          error,
          of: $of,
          expired: (if $of then (.time | seconds) > ($of.time | seconds) + $of.ttl else null end),
          path: .request.path,
          remote_address: .request.remote_address,
          accessor: .auth.accessor,
          token: $token,
          request_id: .request.id
        }
    end
)
