/* The path for any processor. */
#include "field.h"

#include "portable.h"

#define PATH ole_portable
#define PATH_NAME "portable"
#include "kernel.h"
