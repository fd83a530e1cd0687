#!/usr/bin/env bash
# Installs, removes and purges the packages in the given directory, on a copy of this machine that vanishes with the mount
# namespace that this runs in: what is written goes to memory. Called by tests/packaging, inside `unshare --mount --pid`.
set -euo pipefail
packages=$(realpath "$1")

copy=$(mktemp -d)
mount -t tmpfs -o mode=755 none "$copy"
mkdir "$copy"/{upper,work,root}
mount -t overlay -o "lowerdir=/,upperdir=$copy/upper,workdir=$copy/work" none "$copy/root"
mount -t proc none "$copy/root/proc"
mount --rbind /dev "$copy/root/dev"
mkdir -p "$copy/root/packages"
mount --bind "$packages" "$copy/root/packages"

chroot "$copy/root" /bin/bash -euo pipefail <<'INSIDE'
say() { echo "-- $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
expect() { [ "$2" = "$3" ] || fail "$1: expected '$3', found '$2'"; } # WHAT FOUND EXPECTED
export DEBIAN_FRONTEND=noninteractive
unset LONGSHORE_SERVER LONGSHORE_CREDENTIALS
data=/var/lib/longshore

say install
dpkg --install /packages/*.deb
for program in longshore longshore-server longshore-agent; do
  [[ "$("/usr/bin/$program" --version)" =~ ^$program\ [0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "$program --version"
  expect "changes to the files of $program" "$(dpkg --verify "$program")" ""
  gzip -t "/usr/share/man/man1/$program.1.gz"
done
expect "the server's directory" "$(stat -c '%U:%G %a' $data/server)" "longshore:longshore 700"
expect "the agent's directory" "$(stat -c '%U:%G %a' $data/agent)" "root:root 700"
expect "the shell of the server's user" "$(getent passwd longshore | cut -d: -f7)" /usr/sbin/nologin
pgrep -x 'longshore.*' && fail "something was started that nobody had set up"

say configure
longshore-agent config >/dev/null
runuser -u longshore -- longshore-server init --san longshore.example.com
runuser -u longshore -- longshore-server config >/dev/null
expect "the server's key" "$(stat -c '%U %a' $data/server/pki/server.key)" "longshore 600"
# The units are skipped until these are there.
[ -e "$(sed -n 's/^ConditionPathExists=//p' /lib/systemd/system/longshore-server.service)" ] || fail "the server's condition"
touch "$(sed -n 's/^ConditionPathExists=//p' /lib/systemd/system/longshore-agent.service)"

say complete
expect "what bash makes of 'longshore jo'" "$(bash --norc -c '
  . /usr/share/bash-completion/completions/longshore
  words=$(complete -p longshore); [[ $words =~ -F\ ([^ ]+) ]]
  COMP_WORDS=(longshore jo) COMP_CWORD=1; "${BASH_REMATCH[1]}" longshore jo longshore; echo "${COMPREPLY[*]}"')" job

say upgrade
echo 'log: warn' >>/etc/longshore/server.yaml
dpkg --install /packages/longshore-server_*.deb
grep -q '^log: warn' /etc/longshore/server.yaml || fail "an upgrade forgot the settings"

say remove
dpkg --remove longshore-server longshore-agent longshore
[ -e $data/server/pki/server.key ] || fail "a removal took the authority away"
[ -e /etc/longshore/server.yaml ] || fail "a removal took the settings away"
[ ! -e /usr/bin/longshore-server ] || fail "a removal left the program"

say purge
dpkg --purge longshore-server
[ ! -e $data/server ] || fail "a purge left the server's state"
[ -d $data/agent ] || fail "the purge of the server took the agent's state away"
# A process that looks like the keeper of a container: the containers' files are under it.
bash -c 'sleep 60; :' "$data/agent/runtime/containers/till-x1-0-1" & keeper=$!
dpkg --purge longshore-agent
[ -d $data/agent ] || fail "a purge pulled the files out from under a container"
kill "$keeper"
dpkg --install /packages/longshore-agent_*.deb
dpkg --purge longshore-agent longshore
[ ! -e $data ] || fail "a purge left $data"
[ ! -e /etc/longshore ] || fail "a purge left /etc/longshore"
INSIDE
echo "all is well"
