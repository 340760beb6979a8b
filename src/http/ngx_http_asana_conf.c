
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_conf.h"

#include "ngx_asana_lmdb.h"


typedef enum {
    NGX_HTTP_ASANA_PARAM_NONE = 0,
    NGX_HTTP_ASANA_PARAM_ZONE,
    NGX_HTTP_ASANA_PARAM_STATE,
    NGX_HTTP_ASANA_PARAM_SIZE,
    NGX_HTTP_ASANA_PARAM_TIME,
    NGX_HTTP_ASANA_PARAM_NUMBER
} ngx_http_asana_conf_param_e;


typedef struct {
    ngx_str_t                      name;
    ngx_http_asana_conf_param_e    type;
    size_t                         offset;
    ngx_int_t                      preset;
    ngx_int_t                      min;
    ngx_int_t                      max;
} ngx_http_asana_conf_param_t;


static ngx_int_t ngx_http_asana_conf_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);
static ngx_int_t ngx_http_asana_conf_unique(
    ngx_http_asana_zone_conf_t *azcf, ngx_log_t *log);
static ngx_int_t ngx_http_asana_conf_parameter(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ssize_t *size);
static ngx_int_t ngx_http_asana_conf_name(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s,
    ssize_t *size);
static ngx_int_t ngx_http_asana_conf_state(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s);
static ngx_int_t ngx_http_asana_conf_number(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s,
    ngx_http_asana_conf_param_t *param);
static void ngx_http_asana_conf_defaults(
    ngx_http_asana_zone_conf_t *azcf);


static ngx_http_asana_conf_param_t  ngx_http_asana_conf_params[] = {

    { ngx_string("zone="), NGX_HTTP_ASANA_PARAM_ZONE, 0, 0, 0, 0 },
    { ngx_string("state="), NGX_HTTP_ASANA_PARAM_STATE, 0, 0, 0, 0 },

    { ngx_string("max_size="), NGX_HTTP_ASANA_PARAM_SIZE,
      offsetof(ngx_http_asana_zone_conf_t, store.max_size),
      256 * 1024 * 1024, 1024 * 1024, NGX_MAX_INT_T_VALUE },

    { ngx_string("inactive="), NGX_HTTP_ASANA_PARAM_TIME,
      offsetof(ngx_http_asana_zone_conf_t, store.limits.inactive),
      24 * 60 * 60, 1, NGX_MAX_INT32_VALUE },

    { ngx_string("pending="), NGX_HTTP_ASANA_PARAM_TIME,
      offsetof(ngx_http_asana_zone_conf_t, store.limits.pending),
      5 * 60, 1, NGX_MAX_INT32_VALUE },

    { ngx_string("max_secrets="), NGX_HTTP_ASANA_PARAM_NUMBER,
      offsetof(ngx_http_asana_zone_conf_t, store.limits.max_secrets), 16, 1, 1000 },

    { ngx_null_string, NGX_HTTP_ASANA_PARAM_NONE, 0, 0, 0, 0 }
};


char *
ngx_http_asana_conf_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_asana_main_conf_t *amcf = conf;

    ssize_t                            size;
    ngx_str_t                         *value;
    ngx_uint_t                         i;
    ngx_shm_zone_t                    *shm_zone;
    ngx_http_asana_zone_conf_t        *azcf, **zp;
    ngx_http_compile_complex_value_t   ccv;

    value = cf->args->elts;

    azcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_asana_zone_conf_t));
    if (azcf == NULL) {
        return NGX_CONF_ERROR;
    }

    if (value[1].len == 0) {
        return "has an empty key";
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value[1];
    ccv.complex_value = &azcf->key;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    size = 0;

    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_http_asana_conf_parameter(cf, azcf, &value[i], &size)
            != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    if (azcf->name.len == 0 || azcf->path == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" must have the parameter "
                           "\"%s=\"", azcf->name.len ? "state" : "zone");
        return NGX_CONF_ERROR;
    }

    ngx_http_asana_conf_defaults(azcf);

    shm_zone = ngx_shared_memory_add(cf, &azcf->name, size,
                                     &ngx_http_asana_hook_module);
    if (shm_zone == NULL) {
        return NGX_CONF_ERROR;
    }

    if (shm_zone->data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" defines the zone \"%V\" twice",
                           &azcf->name);
        return NGX_CONF_ERROR;
    }

    zp = ngx_array_push(&amcf->zones);
    if (zp == NULL) {
        return NGX_CONF_ERROR;
    }

    *zp = azcf;
    azcf->zones = &amcf->zones;

    azcf->store.zone = azcf->name;
    azcf->store.state = azcf->path->name;

    azcf->zone = ngx_asana_zone_create(cf->pool, &ngx_asana_lmdb,
                                       &azcf->store);
    if (azcf->zone == NULL) {
        return NGX_CONF_ERROR;
    }

    shm_zone->init = ngx_http_asana_conf_init_zone;
    shm_zone->data = azcf;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_asana_conf_parameter(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ssize_t *size)
{
    ngx_str_t                     s;
    ngx_http_asana_conf_param_t  *param;

    for (param = ngx_http_asana_conf_params; param->name.len; param++) {
        if (value->len > param->name.len
            && ngx_strncmp(value->data, param->name.data, param->name.len)
               == 0)
        {
            break;
        }
    }

    s.data = value->data + param->name.len;
    s.len = value->len - param->name.len;

    switch (param->type) {

    case NGX_HTTP_ASANA_PARAM_ZONE:
        return ngx_http_asana_conf_name(cf, azcf, value, &s, size);

    case NGX_HTTP_ASANA_PARAM_STATE:
        return ngx_http_asana_conf_state(cf, azcf, value, &s);

    case NGX_HTTP_ASANA_PARAM_NONE:
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"asana_hook_zone\" parameter \"%V\"",
                           value);
        return NGX_ERROR;

    default:
        return ngx_http_asana_conf_number(cf, azcf, value, &s, param);
    }
}


static ngx_int_t
ngx_http_asana_conf_name(ngx_conf_t *cf, ngx_http_asana_zone_conf_t *azcf,
    ngx_str_t *value, ngx_str_t *s, ssize_t *size)
{
    u_char     *p;
    ngx_str_t   bytes;

    p = ngx_strlchr(s->data, s->data + s->len, ':');

    if (p == NULL || p == s->data) {
        goto invalid;
    }

    azcf->name.data = s->data;
    azcf->name.len = p - s->data;

    bytes.data = p + 1;
    bytes.len = s->data + s->len - bytes.data;

    *size = ngx_parse_size(&bytes);

    if (*size == NGX_ERROR) {
        goto invalid;
    }

    if (*size < (ssize_t) (8 * ngx_pagesize)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" parameter \"%V\" is too small, "
                           "at least %uzk is needed", value,
                           8 * ngx_pagesize / 1024);
        return NGX_ERROR;
    }

    return NGX_OK;

invalid:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid \"asana_hook_zone\" parameter \"%V\", it must "
                       "be \"zone=name:size\"", value);
    return NGX_ERROR;
}


static ngx_int_t
ngx_http_asana_conf_number(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s,
    ngx_http_asana_conf_param_t *param)
{
    ngx_int_t  n;

    switch (param->type) {

    case NGX_HTTP_ASANA_PARAM_SIZE:
        n = (ngx_int_t) ngx_parse_offset(s);
        break;

    case NGX_HTTP_ASANA_PARAM_TIME:
        n = ngx_parse_time(s, 1);
        break;

    default: /* NGX_HTTP_ASANA_PARAM_NUMBER */
        n = ngx_atoi(s->data, s->len);
    }

    if (n < param->min || n > param->max) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"asana_hook_zone\" parameter \"%V\", it "
                           "must be %i to %i", value, param->min, param->max);
        return NGX_ERROR;
    }

    *(ngx_int_t *) ((u_char *) azcf + param->offset) = n;

    return NGX_OK;
}


static void
ngx_http_asana_conf_defaults(ngx_http_asana_zone_conf_t *azcf)
{
    ngx_int_t                    *n;
    ngx_http_asana_conf_param_t  *param;

    for (param = ngx_http_asana_conf_params; param->name.len; param++) {

        if (param->min) {
            n = (ngx_int_t *) ((u_char *) azcf + param->offset);

            if (*n == 0) {
                *n = param->preset;
            }
        }
    }
}


/* a path that nginx makes for its workers, as it makes "proxy_temp_path" */

static ngx_int_t
ngx_http_asana_conf_state(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s)
{
    ngx_uint_t                         i;
    ngx_path_t                        *path;
    ngx_http_asana_zone_conf_t       **zones;
    ngx_http_asana_main_conf_t   *amcf;

    path = ngx_pcalloc(cf->pool, sizeof(ngx_path_t));
    if (path == NULL) {
        return NGX_ERROR;
    }

    while (s->len > 1 && s->data[s->len - 1] == '/') {
        s->len--;
    }

    path->name.len = s->len;
    path->name.data = ngx_pnalloc(cf->pool, s->len + 1);
    if (path->name.data == NULL) {
        return NGX_ERROR;
    }

    ngx_cpystrn(path->name.data, s->data, s->len + 1);

    if (ngx_conf_full_name(cf->cycle, &path->name, 0) != NGX_OK) {
        return NGX_ERROR;
    }

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_asana_hook_module);
    zones = amcf->zones.elts;

    for (i = 0; i < amcf->zones.nelts; i++) {
        if (zones[i]->path->name.len == path->name.len
            && ngx_strcmp(zones[i]->path->name.data, path->name.data) == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"asana_hook_zone\" parameter \"%V\" is "
                               "already used by the zone \"%V\"", value,
                               &zones[i]->name);
            return NGX_ERROR;
        }
    }

    path->data = azcf;
    path->conf_file = cf->conf_file->file.name.data;
    path->line = cf->conf_file->line;

    azcf->path = path;

    return ngx_add_path(cf, &azcf->path);
}


/* an ngx_shm_zone_init_pt: in the master */

static ngx_int_t
ngx_http_asana_conf_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_asana_zone_conf_t *old = data;

    ngx_http_asana_zone_conf_t  *azcf;

    azcf = shm_zone->data;

    if (ngx_http_asana_conf_unique(azcf, shm_zone->shm.log) != NGX_OK) {
        return NGX_ERROR;
    }

    if (old
        && (azcf->key.value.len != old->key.value.len
            || ngx_strncmp(azcf->key.value.data, old->key.value.data,
                           azcf->key.value.len)
               != 0
            || azcf->path->name.len != old->path->name.len
            || ngx_strncmp(azcf->path->name.data, old->path->name.data,
                           azcf->path->name.len)
               != 0))
    {
        ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                      "asana_hook_zone \"%V\" uses the key \"%V\" and "
                      "the state \"%V\" while it lives with the key "
                      "\"%V\" and the state \"%V\"; give the changed "
                      "zone another name, or restart nginx",
                      &shm_zone->shm.name, &azcf->key.value,
                      &azcf->path->name, &old->key.value, &old->path->name);
        return NGX_ERROR;
    }

    return ngx_asana_zone_init(azcf->zone, shm_zone, old ? old->zone : NULL);
}


/*
 * LMDB's locks break if one process opens the same files twice: a symbolic
 * link must not make two zones of one store.
 */

static ngx_int_t
ngx_http_asana_conf_unique(ngx_http_asana_zone_conf_t *azcf, ngx_log_t *log)
{
    ngx_str_t                    *name;
    ngx_uint_t                    i;
    ngx_file_info_t               fi, other;
    ngx_http_asana_zone_conf_t  **zones;

    name = &azcf->path->name;

    if (ngx_file_info(name->data, &fi) == NGX_FILE_ERROR) {
        goto failed;
    }

    zones = azcf->zones->elts;

    for (i = 0; zones[i] != azcf; i++) {

        name = &zones[i]->path->name;

        if (ngx_file_info(name->data, &other) == NGX_FILE_ERROR) {
            goto failed;
        }

        if (ngx_file_uniq(&fi) != ngx_file_uniq(&other)
            || fi.st_dev != other.st_dev)
        {
            continue;
        }

        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "\"asana_hook_zone\" parameter \"state=%V\" is the same "
                      "directory as \"state=%V\" of the zone \"%V\"",
                      &azcf->path->name, name, &zones[i]->name);
        return NGX_ERROR;
    }

    return NGX_OK;

failed:

    ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                  ngx_file_info_n " \"%V\" failed", name);

    return NGX_ERROR;
}
