#pragma once
// _FILE_OFFSET_BITS is left alone on purpose: x86-64 and arm64 have 64-bit offsets anyway, and
// two modules that disagree on it disagree on `struct flock`.
#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>
// The kernel's own message layouts: for directory replies, and for the flags that libfuse 3.14 hides.
#include <linux/fuse.h>
