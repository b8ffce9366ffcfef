# Finds wrapped answers of reset and reveal that nobody opened before their token ran out.
#
#   audit-lines audit.log.1 audit.log | jq -nRc -f never-unwrapped.jq
#   audit-lines audit.log | jq -nRc --arg mount team1/smtp/ --argjson now 1790000000 -f never-unwrapped.jq
#
# What to do: the password was asked for and not taken. After a reset it is the valid one all the
# same: reveal it. If the person for whom it was asked knows nothing of it, his token was used by
# somebody else. "revoked_by" was in time to end it; "perhaps_opened_by" lists openings of tokens
# that these logs do not know, while this one lived: on OpenBao and Vault 1.15 a token in the JWT
# format, given in the body, has another HMAC than the one it was given out with, so it cannot be told
# whether it was that.
# "rewrapped" tells that it is not the first token: the time began anew with each.
#
# HMACs differ between audit devices: give the logs of one device, and at least those of the
# longest reveal_ttl (15 minutes) before the time you look at. `now` (Unix seconds) is for old logs.

include "lines" {search: "./"};

def full($path): (.request.namespace.path // "") + $path;
def emergency: startswith($ARGS.named.mount // "smtp/")
  and (.[($ARGS.named.mount // "smtp/") | length:] | test("^[^/]+/(reset|reveal)$"));
def seconds: sub("\\.[0-9]+"; "") | fromdateiso8601;
def opening: .request.path | IN("sys/wrapping/unwrap", "sys/wrapping/rewrap", "cubbyhole/response");
# The tokens it may be about: the one in the body, and the caller's own. Which of the last two has the
# HMAC of the token in a JWT differs: OpenBao and Vault 1.15 write it under `auth`, newer ones under
# `request`. Any that fits counts.
def tokens:
  [.request.data.token?, .auth.client_token?, .request.client_token?]
  | map(select(type == "string" and . != ""))
  | unique;

($ARGS.named.now // now) as $now
| findings(
  reduce (audit_lines | select(.rule or (.type == "response" and .error == null))) as $line (
      {wrapped: {}, known: {}, opened: {}, revoked: {}, not_parsed: []};
      if $line.rule then .not_parsed += [$line]
      elif $line.response.wrap_info.token? then
        $line.response.wrap_info as $wrap
        | .known[$wrap.token] = true
        | if $line | full($wrap.creation_path) | emergency then
            .wrapped[$wrap.token] = {
              path: ($line | full($wrap.creation_path)),
              time: $wrap.creation_time,
              ttl: $wrap.ttl,
              for: $line.auth.display_name,
              accessor: $wrap.accessor,
              rewrapped: ($line.request.path == "sys/wrapping/rewrap"),
              request_id: $line.request.id
            }
          else . end
      else . end
      | if ($line | opening) then
          ($line | tokens) as $tokens
          | {time: $line.time, by: $line.auth.display_name, request_id: $line.request.id} as $opening
          | reduce $tokens[] as $token (.; .opened[$token] = {$opening, $tokens})
        elif $line.request.path == "auth/token/revoke-accessor"
          and ($line.request.data.accessor? | type == "string") then
          .revoked[$line.request.data.accessor] = {time: $line.time, by: $line.auth.display_name}
        else . end
    )
  | .not_parsed[], (
      .known as $known
      | .opened as $opened
      | .revoked as $revoked
      | ([$opened[] | select([.tokens[] | $known[.]] | any | not) | .opening] | unique) as $strangers
      | .wrapped
      | to_entries[]
      | select($opened[.key] | not)
      | .value
      | (.time | seconds) as $begin
      | select($begin + .ttl < $now)
      | {rule: "never-unwrapped"} + del(.accessor) + {
          revoked_by: $revoked[.accessor],
          perhaps_opened_by: [
            .ttl as $ttl
            | $strangers[]
            | select((.time | seconds) as $at | $at >= $begin and $at <= $begin + $ttl)
          ]
        }
    )
)
