# Sourced by the other tools. Sets `venv`: the folder of the environment that $STACK names.
# Without STACK it is .venv, of whichever stack tools/find_python.sh found a Python for.
case ${STACK:-} in
  '' | 2.15) venv=.venv ;;
  *) venv=.venv-$STACK ;;
esac
