#!/bin/sh
# What the official one adds to `weed server`; options that come later count.
case $1 in
server)
    shift
    exec /usr/bin/weed -logtostderr=true server -dir=/data -volume.max=0 \
        -master.volumePreallocate -master.volumeSizeLimitMB=1024 "$@"
    ;;
*)
    exec /usr/bin/weed "$@"
    ;;
esac
