# No rule: what the rules include. Reads the lines that audit-lines passes on, and its findings.
#
# A log that is given to a rule without audit-lines is read too, as far as jq can. What it cannot
# (lines of more than 256 levels, which anybody can have the host write) is the finding then,
# without addresses: audit-lines reads it.

# Every audit line and, at the end, one finding "not-parsed" for each log with lines that are none.
def audit_lines:
  foreach (inputs, null) as $raw (
    {};
    .line = null
    | (input_filename // "<stdin>") as $log
    | input_line_number as $number
    | ([$raw | fromjson?] | first) as $value
    | if $raw == null then .over = true
      elif $value | type == "object" then .line = $value
      elif $raw[0:64] | test("^\\s*$") then .
      else
        .lost[$log] |= {
          lines: (.lines + 1),
          first_line: (.first_line // $number),
          last_line: $number
        }
      end;
    if .over then .lost // {} | to_entries[] | {rule: "not-parsed", log: .key} + .value
    else .line | select(.rule == "not-parsed" or (.request? | type == "object"))
    end
  );
