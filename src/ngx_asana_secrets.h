
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_SECRETS_H_INCLUDED_
#define _NGX_ASANA_SECRETS_H_INCLUDED_


#include "ngx_asana.h"


/*
 * A secret, with its text behind it: secrets of varying length follow each
 * other, each aligned to eight bytes.  Times are seconds of the epoch, 0 says
 * that it never happened.
 */

typedef struct {
    time_t                created;
    time_t                verified;    /* last delivery that it signed */
    time_t                answered;    /* last one answered with success */
    time_t                failing;     /* first failure after that */
    uint64_t              serial;      /* place in the store's order, or 0 */
    time_t                stored;      /* "verified" as the store has it */
    ngx_uint_t            deliveries;  /* counted by the zone alone */
    uint16_t              code;        /* of the last answer */
    u_char                pending;     /* 1: not confirmed yet */
    u_char                gid_len;
    u_char                told;        /* "stored" came with this state */
    u_char                len;
    u_char                id[NGX_ASANA_ID_LEN];
    u_char                gid[NGX_ASANA_MAX_GID];
    u_char                data[1];     /* the secret, len bytes */
} ngx_asana_secret_t;

/* all secrets of one key */

struct ngx_asana_secrets_s {
    u_char               *start;       /* aligned to eight bytes */
    size_t                size;        /* of the secrets in it */
    size_t                capacity;
    ngx_uint_t            n;
    ngx_uint_t            allocated;   /* start is to be freed */
};


#define ngx_asana_secret_size(len)                                            \
    ngx_align(offsetof(ngx_asana_secret_t, data) + (len), 8)

#define ngx_asana_secret_next(s)                                              \
    (ngx_asana_secret_t *) ((u_char *) (s) + ngx_asana_secret_size((s)->len))

/* if there is one */
#define ngx_asana_secrets_first(secrets)                                      \
    ((ngx_asana_secret_t *) (secrets)->start)

/* a secret counts as active for "inactive" seconds after this */
#define ngx_asana_secret_seen(s)  ngx_max((s)->created, (s)->verified)


/*
 * Starts with no secrets in the caller's buffer, which is aligned to eight
 * bytes and outlives them; size may be 0.  What does not fit is allocated.
 */
void ngx_asana_secrets_init(ngx_asana_secrets_t *secrets, u_char *buf,
    size_t size);

/* Overwrites all of them and frees what was allocated; there are none then. */
void ngx_asana_secrets_wipe(ngx_asana_secrets_t *secrets);

/*
 * Makes room for size bytes in all; NGX_ERROR if there is no memory.  Pointers
 * into the secrets are void then.
 */
ngx_int_t ngx_asana_secrets_reserve(ngx_asana_secrets_t *secrets, size_t size);

/*
 * Appends a secret of len bytes, all zeroes but "len", and returns it, or
 * NULL if there is no memory.  Other pointers into the secrets are void then.
 */
ngx_asana_secret_t *ngx_asana_secrets_push(ngx_asana_secrets_t *secrets,
    size_t len);

/* Appends copies of the others; NGX_ERROR if there is no memory. */
ngx_int_t ngx_asana_secrets_append(ngx_asana_secrets_t *secrets,
    ngx_asana_secrets_t *other);

/* Removes the secret and overwrites what it leaves behind the others. */
void ngx_asana_secrets_remove(ngx_asana_secrets_t *secrets,
    ngx_asana_secret_t *s);

/* The secret with this id[ID_LEN], with this text (constant time), or NULL. */
ngx_asana_secret_t *ngx_asana_secrets_by_id(ngx_asana_secrets_t *secrets,
    u_char *id);
ngx_asana_secret_t *ngx_asana_secrets_by_text(ngx_asana_secrets_t *secrets,
    u_char *text, size_t len);

/* Takes times after now (a clock went wrong) for now: 1 if it was seen then. */
ngx_uint_t ngx_asana_secrets_settle_one(ngx_asana_secret_t *s, time_t now);

/*
 * The same for all of them, 1 if there was such a one; removes those that are
 * pending for "pending" seconds or more.
 */
ngx_uint_t ngx_asana_secrets_settle(ngx_asana_secrets_t *secrets, time_t now,
    time_t pending);

/* 16 to 255 visible ASCII characters: NGX_OK, else NGX_DECLINED. */
ngx_int_t ngx_asana_secrets_check(u_char *text, size_t len);


#endif /* _NGX_ASANA_SECRETS_H_INCLUDED_ */
