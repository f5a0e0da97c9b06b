#!/usr/bin/env bash
# A Slurm cluster of one node on this machine, for the tests: `slurm_cluster.sh start` and `stop`, as root.
# Needs Debian's packages slurm-wlm and munge. Refuses to touch a slurm.conf that it has not written.
set -euo pipefail
MARK="# written by tests/workflow/slurm_cluster.sh"
CONF=/etc/slurm/slurm.conf  # jobs lose SLURM_CONF, so it must be the usual place
STATE=/run/test-slurm

stop() {
  scontrol shutdown 2> /dev/null || true
  for _ in 1 2 3 4 5; do pidof slurmctld slurmd > /dev/null || break; sleep 1; done
  pkill -x slurmctld || true
  pkill -x slurmd || true
  pkill -x munged || true
  rm -rf "$STATE" "$CONF"
}

if [ -e "$CONF" ] && ! grep -qF "$MARK" "$CONF"; then
  echo "$CONF is somebody else's" >&2
  exit 1
fi
if [ "${1:-}" = stop ]; then
  stop
  exit 0
fi
[ "${1:-}" = start ] || { echo "usage: $0 start|stop" >&2; exit 2; }

pgrep -x munged > /dev/null || {
  mkdir -p /run/munge && chown munge:munge /run/munge && chmod 755 /run/munge
  su -s /bin/sh munge -c /usr/sbin/munged
}
mkdir -p "$STATE/state" "$STATE/spool"
HOST=$(hostname -s)
cat > "$CONF" << EOF
$MARK
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation=$STATE/state
SlurmdSpoolDir=$STATE/spool
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free -m | awk '/^Mem:/ {print int($2 * 0.9)}') State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
slurmctld
slurmd
for _ in $(seq 20); do
  if [ "$(sinfo -h -o %t 2> /dev/null)" = idle ]; then exit 0; fi
  sleep 1
done
echo "the node did not come up: $(sinfo -h -o '%t %E' 2>&1)" >&2
exit 1
