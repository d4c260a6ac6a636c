. ./env.sh
D="/work/lab/r3tmp/o ütf 映像"; rm -rf "$D"
A="-m core matte --footage $T/seq/shot.1001.png --plate $T/plate.png --frames 1001-1003"
t() { n="$1"; shift; "$@" >$T/so 2>$T/se; echo "--- $n rc=$?"; tail -c 250 $T/so; tail -c 500 $T/se | tr '\r' '\n' | tail -4; }
t cp1252 env PYTHONIOENCODING=cp1252 $PY $A --output "$D"
t posix env LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $PY $A --output "$D"2
t posixdeliver env LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $PY -m core deliver "$D"2 --deliver preview,rgba
ls "$D"2
t envi env -i /work/lab/r3/.venv/bin/python $A --output $T/o_envi
t notmp env -i TMPDIR=/nonexistent HOME=/nonexistent /work/lab/r3/.venv/bin/python $A --output $T/o_envi2
sh -c "$PY $A --output $T/o_cl2 2>&-"; echo "stderr closed rc=$?"
sh -c "$PY $A --output $T/o_cl1 >&-" 2>$T/se; echo "stdout closed rc=$?"; tail -3 $T/se
sh -c "$PY $A --output $T/o_cl0 <&-" 2>$T/se; echo "stdin closed rc=$?"; tail -c 300 $T/se
sh -c "$PY $A --output $T/o_fl >/dev/full" 2>$T/se; echo "stdout full rc=$?"; tail -3 $T/se
sh -c "$PY $A --output $T/o_fl2 2>/dev/full"; echo "stderr full rc=$?"
sh -c "$PY -m core info | true"; echo "info pipe rc=$?"
