#pragma once

// Everything a host program needs.
#include "kv/admin.h"
#include "kv/clock.h"
#include "kv/events.h"
#include "kv/keys.h"
#include "kv/memory.h"
#include "kv/options.h"
#include "kv/postgres.h"
#include "kv/request.h"
#include "kv/result.h"
#include "kv/rows.h"
#include "kv/secret.h"
#include "kv/sqlite.h"
#include "kv/storage.h"
#include "kv/store.h"
#include "kv/types.h"
#include "kv/version.h"
