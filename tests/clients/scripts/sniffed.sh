# A TLS server and a client in the directory $1 that sends it a line, without
# certificates. Both are called tlspeer.
cd "$1" || exit 1
cp "$(command -v openssl)" tlspeer
mkfifo input
key='-psk 1a2b3c4d'
./tlspeer s_server -unix "$1/socket" -nocert $key -quiet -naccept 1 <>input >received 2>/dev/null &
while ! [ -S socket ]; do sleep 0.05; done
echo 'sniffed words' | ./tlspeer s_client -unix "$1/socket" $key -quiet -no_ign_eof >/dev/null 2>&1
wait
[ "$(cat received)" = 'sniffed words' ]
