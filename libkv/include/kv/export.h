#pragma once

// KV_EXPORT marks what libkv's shared object offers; everything else stays hidden in it.
#if defined(KV_STATIC)
#define KV_EXPORT
#else
#define KV_EXPORT __attribute__((visibility("default")))
#endif
