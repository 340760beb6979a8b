
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Sizes and types that all units share.  What is called ngx_asana_* knows no
 * HTTP, and includes nothing of nginx but its core.
 */


#ifndef _NGX_ASANA_H_INCLUDED_
#define _NGX_ASANA_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#define NGX_ASANA_VERSION     "0.2.0"

/* bytes; a secret is named by its id, the first bytes of its SHA-256 */
#define NGX_ASANA_ID_LEN      8
#define NGX_ASANA_MAC_LEN     32
#define NGX_ASANA_MAX_KEY     480
#define NGX_ASANA_MIN_SECRET  16
#define NGX_ASANA_MAX_SECRET  255
#define NGX_ASANA_MAX_GID     32

/* whether texts are equal */
#define ngx_asana_same(a, a_len, b, b_len)                                    \
    ((a_len) == (b_len) && ngx_memcmp(a, b, b_len) == 0)

/* seconds of a store; in 32 bits the last time stands for all later ones */
#if (NGX_TIME_T_SIZE == 4)
#define ngx_asana_time(n)                                                     \
    ((time_t) ngx_min((uint64_t) (n), (uint64_t) 0x7fffffff))
#else
#define ngx_asana_time(n)     ((time_t) (n))
#endif

/* words of a zone that a backend may use */
#define NGX_ASANA_SHARED      8


typedef struct ngx_asana_secrets_s  ngx_asana_secrets_t;
typedef struct ngx_asana_change_s   ngx_asana_change_t;
typedef struct ngx_asana_store_s    ngx_asana_store_t;
typedef struct ngx_asana_zone_s     ngx_asana_zone_t;
typedef struct ngx_asana_seal_s     ngx_asana_seal_t;


#endif /* _NGX_ASANA_H_INCLUDED_ */
