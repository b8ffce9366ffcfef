# No rule: what the rules include. Reads the lines that audit-lines passes on, and its findings.
#
# A log that is given to a rule without audit-lines is read too, as far as jq can: what stands
# before the object is cut off, and the texts of a few envelopes are opened. What it cannot read
# (lines of more than 256 levels, which anybody can have the host write; parts of lines) is the
# finding then, without addresses: audit-lines reads it.
#
# A rule that saw no audit line, or was told of a log that cannot be read, says so and exits with 2:
# its silence would be no word about the log.

def is_audit: type == "object" and (.request? | type == "object")
  and (.type == "request" or .type == "response");

# What a line holds: an audit line, a finding of audit-lines, anything else, or nothing.
def begin: capture("(?<at>\\{\\s*\"(?:time|type|auth|request|response|error)\"\\s*:.*)"; "m").at;
def parsed: [fromjson?] | first;
def object: parsed // (sub("^[^{]*"; "") | parsed) // ([begin | parsed] | first);
def content:
  .log, .MESSAGE, .message, .msg, .line, .textPayload, .jsonPayload, .event, ._raw, ._source,
  .short_message
  | if type == "string" then object else . end;
def value:
  object
  | if type == "object" and (is_audit | not) and .rule != "not-parsed" then
      ([content | ., (objects | content) | select(is_audit)] | first) // .
    else . end;

# Every audit line and, at the end, one finding "not-parsed" for each log with lines that are none.
def audit_lines:
  foreach (inputs, null) as $raw (
    {};
    .line = null
    | (input_filename // "<stdin>") as $log
    | input_line_number as $number
    | (if $raw == null then null else $raw | value end) as $value
    | if $raw == null then .over = true
      elif $value | is_audit then .line = $value | .audit = true
      elif ($value | type == "object") and $value.rule == "not-parsed" then
        .line = $value | .why = (.why or $value.why != null)
      elif ($value == {} and ($raw | test("^\\s*\\{"))) or ($raw[0:64] | test("^\\s*$")) then .
      else
        .lost[$log] |= {
          lines: (.lines + 1),
          first_line: (.first_line // $number),
          last_line: $number
        }
      end;
    if .over then
      (if .audit or .why then {}
      else {why: "has no audit line: give it to audit-lines, which opens more envelopes"} end) as $why
      | (if $why.why and .lost == null then {"<stdin>": {lines: 0}} else .lost // {} end)
      | to_entries[]
      | {rule: "not-parsed", log: .key} + .value + $why
    else .line | select(. != null)
    end
  );

# What a rule finds, and the exit code for what it could not judge.
def findings(found):
  foreach (found, null) as $it (
    false;
    . or ($it.rule == "not-parsed" and $it.why != null);
    if $it != null then $it
    elif . then "there are logs that could not be judged: see not-parsed\n" | halt_error(2)
    else empty end
  );
