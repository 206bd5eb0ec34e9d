#!/bin/sh
export LD_LIBRARY_PATH=/opt/tritonserver/libraries PATH="/opt/tritonserver/model/bin:$PATH"
exec /opt/tritonserver/bin/server "$@"
