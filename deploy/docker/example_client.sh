#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The example client of deploy/compose: asks attnd's C++ model server for the tokens after one
# prompt a second. SIGTERM lets it answer what it has, and close its session. Killed, it leaves its
# session behind, and the next one goes on with it: its token is kept in /var/lib/attnd-example.
set -eu

requests=/var/lib/attnd-example/requests
rm -f "$requests"
mkfifo "$requests"
attnd_model_server --address "$ATTND_ADDRESS" --token_file /var/lib/attnd-example/token \
  <"$requests" &
server=$!
exec 3>"$requests"
# The end of its input is the server's sign to finish.
stop=
trap 'stop=1' TERM INT

number=0
while [ -z "$stop" ] && kill -0 "$server" 2>/dev/null; do
  number=$((number + 1))
  # The identifier, how many tokens, and the prompt.
  echo "request-$(date +%s)-$number ${TOKENS_PER_REQUEST:-32} 17 4 250 $((number % 256))" \
    >&3 || break
  sleep "${SECONDS_BETWEEN_REQUESTS:-1}" 3>&- &
  wait $! || true
done
exec 3>&-
status=0
wait "$server" || status=$?
exit "$status"
