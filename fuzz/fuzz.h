
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _FUZZ_H_INCLUDED_
#define _FUZZ_H_INCLUDED_


#include "ngx_asana.h"

#include <ctype.h>


/* What does not hold ends the program, with the input kept. */
#define check(what)                                                           \
    if (!(what)) {                                                            \
        fuzz_failed(__FILE__, __LINE__, #what);                               \
    }


void fuzz_failed(const char *file, int line, const char *what);

/* A pool for one input. */
ngx_pool_t *fuzz_pool(void);

/* The bytes in memory of their own, so that a read past them is seen. */
u_char *fuzz_copy(ngx_pool_t *pool, const u_char *data, size_t size);

/*
 * A body in pieces: the first byte says how many cuts there are, and whether
 * the last pieces lie in a file; then follows a byte for the length of each
 * piece but the last.  "body" is what is behind them.
 */
ngx_chain_t *fuzz_chain(ngx_pool_t *pool, const u_char *data, size_t size,
    ngx_str_t *body);

/* The text of all buffers. */
ngx_str_t fuzz_text(ngx_pool_t *pool, ngx_chain_t *cl);

/* Whether it is UTF-8 (RFC 3629), or one JSON text (RFC 8259). */
ngx_uint_t fuzz_is_utf8(ngx_str_t *text);
ngx_uint_t fuzz_is_json(ngx_str_t *text);


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


#endif /* _FUZZ_H_INCLUDED_ */
