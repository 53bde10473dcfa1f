/* The path for any processor. */
#include "field.h"

#include "aes_portable.h"

#include "band_portable.h"

#define PATH ole_portable
#define PATH_NAME "portable"
#include "kernel.h"
