
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_postgres_reseal.h"


/* columns of the statement that reads */

typedef enum {
    NGX_ASANA_RESEAL_KEY = 0,
    NGX_ASANA_RESEAL_ID,
    NGX_ASANA_RESEAL_PENDING,
    NGX_ASANA_RESEAL_SEALED
} ngx_asana_reseal_column_e;


static ngx_int_t ngx_asana_postgres_reseal_row(
    ngx_asana_postgres_reseal_t *reseal, PGresult *res, int row);


void
ngx_asana_postgres_reseal_init(ngx_asana_postgres_reseal_t *reseal,
    ngx_asana_backend_conf_t *conf, ngx_queue_t *batch, ngx_pool_t *pool,
    ngx_log_t *log)
{
    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    ngx_memzero(reseal, sizeof(ngx_asana_postgres_reseal_t));

    reseal->conf = conf;
    reseal->log = log;

    for (q = ngx_queue_head(batch);
         q != ngx_queue_sentinel(batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        reseal->wanted |= (task->change.type == NGX_ASANA_RESEAL);
    }

    if (reseal->wanted) {
        ngx_asana_sql_init(&reseal->sql, pool);
    }
}


ngx_uint_t
ngx_asana_postgres_reseal_select(ngx_asana_postgres_reseal_t *reseal,
    ngx_asana_sql_t *sql)
{
    u_char      *id;
    ngx_uint_t   i;

    if (!reseal->wanted) {
        return 0;
    }

    ngx_asana_sql_add(sql, "SELECT count(*) FROM asana_hook.secrets WHERE"
                           " substring(sealed FROM 2 FOR 4)<>");
    ngx_asana_sql_add_bytes(sql, ngx_asana_seal_key_id(reseal->conf->seal, 0),
                            NGX_ASANA_SEAL_ID_LEN);
    ngx_asana_sql_add(sql, " AND zone=");
    ngx_asana_sql_add_name(sql, &reseal->conf->zone);

    ngx_asana_sql_add(sql, ";SELECT encode(key,'hex'),encode(id,'hex'),"
                           "pending::int,encode(sealed,'hex') FROM"
                           " asana_hook.secrets WHERE zone=");
    ngx_asana_sql_add_name(sql, &reseal->conf->zone);
    ngx_asana_sql_add(sql, " AND substring(sealed FROM 2 FOR 4)=ANY(ARRAY[");

    for (i = 1; (id = ngx_asana_seal_key_id(reseal->conf->seal, i)); i++) {
        ngx_asana_sql_add(sql, (i > 1) ? "," : "");
        ngx_asana_sql_add_bytes(sql, id, NGX_ASANA_SEAL_ID_LEN);
    }

    ngx_asana_sql_add(sql, "]::bytea[]) LIMIT %d;", NGX_ASANA_RESEAL_MAX);

    return NGX_ASANA_POSTGRES_RESEAL;
}


ngx_int_t
ngx_asana_postgres_reseal_load(ngx_asana_postgres_reseal_t *reseal,
    PGresult **res)
{
    int  row;

    if (!reseal->wanted) {
        return NGX_OK;
    }

    for (row = 0; row < PQntuples(res[1]); row++) {
        if (ngx_asana_postgres_reseal_row(reseal, res[1], row) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    reseal->left = ngx_asana_sql_number(res[0], 0, 0) - reseal->resealed;

    if (reseal->resealed) {
        ngx_asana_sql_add(&reseal->sql, ")v(key,id,sealed) WHERE s.key=v.key"
                                        " AND s.id=v.id AND s.zone=");
        ngx_asana_sql_add_name(&reseal->sql, &reseal->conf->zone);
        ngx_asana_sql_add(&reseal->sql, ";");
    }

    return reseal->sql.end ? NGX_OK : NGX_ERROR;
}


/* what cannot be opened stays as it is */

static ngx_int_t
ngx_asana_postgres_reseal_row(ngx_asana_postgres_reseal_t *reseal,
    PGresult *res, int row)
{
    size_t                   len, size;
    u_char                   key[NGX_ASANA_MAX_KEY], id[NGX_ASANA_ID_LEN];
    u_char                   sealed[NGX_ASANA_SEAL_MAX];
    u_char                   secret[NGX_ASANA_MAX_SECRET];
    ssize_t                  n, key_len;
    ngx_int_t                rc;
    ngx_asana_sql_t         *sql;
    ngx_asana_seal_place_t   place;

    sql = &reseal->sql;

    ngx_memzero(id, sizeof(id));
    (void) ngx_asana_sql_bytes(res, row, NGX_ASANA_RESEAL_ID, id, sizeof(id));

    key_len = ngx_asana_sql_bytes(res, row, NGX_ASANA_RESEAL_KEY, key,
                                  sizeof(key));
    n = ngx_asana_sql_bytes(res, row, NGX_ASANA_RESEAL_SEALED, sealed,
                            sizeof(sealed));

    if (key_len == NGX_ERROR || n == NGX_ERROR) {
        return NGX_OK;
    }

    place.zone = reseal->conf->zone;
    place.key.len = key_len;
    place.key.data = key;
    place.id = id;
    place.pending = ngx_asana_sql_number(res, row, NGX_ASANA_RESEAL_PENDING);

    rc = ngx_asana_seal_decrypt(reseal->conf->seal, &place, sealed, n, secret,
                                &len);

    if (rc != NGX_OK) {
        ngx_asana_seal_complain(&place, rc, sealed + 1, reseal->log);
        return NGX_OK;
    }

    size = ngx_asana_seal_encrypt(reseal->conf->seal, &place, secret, len,
                                  sealed);

    ngx_explicit_memzero(secret, len);

    if (size == 0) {
        return NGX_ERROR;
    }

    ngx_asana_sql_add(sql, reseal->resealed++
                           ? ",(" : "UPDATE asana_hook.secrets s SET"
                                    " sealed=v.sealed FROM (VALUES(");
    ngx_asana_sql_add_bytes(sql, key, key_len);
    ngx_asana_sql_add(sql, ",");
    ngx_asana_sql_add_bytes(sql, id, sizeof(id));
    ngx_asana_sql_add(sql, ",");
    ngx_asana_sql_add_bytes(sql, sealed, size);
    ngx_asana_sql_add(sql, ")");

    return NGX_OK;
}


/* of two of them the first one has done it */

void
ngx_asana_postgres_reseal_decide(ngx_asana_postgres_reseal_t *reseal,
    ngx_asana_task_t *task)
{
    task->outcome = reseal->resealed ? NGX_ASANA_CHANGED : NGX_ASANA_HELD;
    task->resealed = reseal->resealed;
    task->left = reseal->left;

    reseal->resealed = 0;
}
