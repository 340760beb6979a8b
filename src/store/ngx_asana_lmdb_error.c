
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_lmdb_error.h"

#include "ngx_asana_json.h"


ngx_int_t
ngx_asana_lmdb_error(ngx_asana_lmdb_errors_t *errors, ngx_log_t *log,
    const char *what, int err)
{
    const char  *help, *text;

    if (ngx_asana_lmdb_error_quiet(errors, (ngx_uint_t) ngx_abs(err))) {
        return NGX_ERROR;
    }

    text = mdb_strerror(err);

    switch (err) {

    case NGX_ASANA_LMDB_NO_KEY:
        text = "it is encrypted";
        help = "; give the zone its \"encryption_key\" again, or restore a "
               "backup in clear";
        break;

    case NGX_EACCES:
    case NGX_EPERM:
        help = "; chown the directory and its files to the user of the "
               "workers";
        break;

    case NGX_ENOENT:
        help = "; restore the directory, or reload nginx to make it anew";
        break;

    case NGX_ENOSPC:
    case EDQUOT:
        help = "; make room on the disk";
        break;

    case EFBIG:
        help = "; raise the limit of file sizes, RLIMIT_FSIZE";
        break;

    case EIO:
        help = "; check the disk and its file system";
        break;

    case EROFS:
        help = "; mount the file system for writing";
        break;

    case NGX_EAGAIN:
        help = "; is it used from another container?";
        break;

    case MDB_MAP_FULL:
        help = "; raise \"max_size\" of the zone";
        break;

    case MDB_VERSION_MISMATCH:
        help = "; it has the format of a newer version, upgrade the module";
        break;

    case MDB_INVALID:
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INCOMPATIBLE:
        help = "; it is left as it is, restore it from a backup";
        break;

    default:
        help = "";
    }

    ngx_log_error(NGX_LOG_CRIT, log, 0, "asana_hook: store \"%V\" %s: %s%s",
                  &errors->conf->state, what, text, help);

    return NGX_ERROR;
}


void
ngx_asana_lmdb_error_damaged(ngx_asana_lmdb_errors_t *errors, ngx_log_t *log,
    MDB_val *key)
{
    u_char     buf[6 * NGX_ASANA_MAX_KEY];
    ngx_str_t  name;

    if (ngx_asana_lmdb_error_quiet(errors, 63)) {
        return;
    }

    name.len = ngx_min(key->mv_size, NGX_ASANA_MAX_KEY);
    name.data = key->mv_data;

    name.len = ngx_asana_json_escape(buf, &name);
    name.data = buf;

    ngx_log_error(NGX_LOG_CRIT, log, 0,
                  "asana_hook: store \"%V\": what it holds for the key \"%V\" "
                  "is damaged and not used; restore it from a backup",
                  &errors->conf->state, &name);
}


ngx_uint_t
ngx_asana_lmdb_error_quiet(ngx_asana_lmdb_errors_t *errors, ngx_uint_t cause)
{
    ngx_atomic_t       *said;
    ngx_atomic_uint_t   mark, old;

    said = &errors->said[cause % 16];
    mark = (ngx_atomic_uint_t) ngx_time() * 64 + cause % 64;

    old = ngx_atomic_fetch_add(said, 0);

    return old == mark || !ngx_atomic_cmp_set(said, old, mark);
}
