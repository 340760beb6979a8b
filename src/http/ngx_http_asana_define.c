
/*
 * Copyright (C) asana-hook contributors
 */


/* the directive "asana_hook_zone" */


#include "ngx_http_asana_define.h"

#include "ngx_asana_lmdb.h"
#include "ngx_asana_seal.h"


/* on this host, and shared by a fleet of hosts */

#define NGX_HTTP_ASANA_DEFINE_HOST   1
#define NGX_HTTP_ASANA_DEFINE_FLEET  2
#define NGX_HTTP_ASANA_DEFINE_BOTH   3


typedef enum {
    NGX_HTTP_ASANA_PARAM_NONE = 0,
    NGX_HTTP_ASANA_PARAM_ZONE,
    NGX_HTTP_ASANA_PARAM_STATE,
    NGX_HTTP_ASANA_PARAM_KEY,
    NGX_HTTP_ASANA_PARAM_SIZE,
    NGX_HTTP_ASANA_PARAM_TIME,
    NGX_HTTP_ASANA_PARAM_MSEC,
    NGX_HTTP_ASANA_PARAM_NUMBER
} ngx_http_asana_define_param_e;


typedef struct {
    ngx_str_t                      name;
    ngx_http_asana_define_param_e  type;
    size_t                         offset;
    ngx_uint_t                     stores;    /* that have a use for it */
    ngx_int_t                      preset;
    ngx_int_t                      min;
    ngx_int_t                      max;
} ngx_http_asana_define_param_t;


#define ngx_http_asana_define_field(azcf, param)                              \
    (ngx_int_t *) ((u_char *) (azcf) + (param)->offset)


static ngx_int_t ngx_http_asana_define_fits(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf);
static ngx_int_t ngx_http_asana_define_key(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *s);
static char *ngx_http_asana_define_add(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ssize_t size);
static ngx_int_t ngx_http_asana_define_parameter(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ssize_t *size);
static ngx_int_t ngx_http_asana_define_name(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s,
    ssize_t *size);
static ngx_int_t ngx_http_asana_define_state(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s);
static ngx_int_t ngx_http_asana_define_number(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s,
    ngx_http_asana_define_param_t *param);


ngx_asana_backend_t  *ngx_http_asana_define_fleet;


static ngx_http_asana_define_param_t  ngx_http_asana_define_params[] = {

    { ngx_string("zone="), NGX_HTTP_ASANA_PARAM_ZONE, 0, 0, 0, 0, 0 },
    { ngx_string("state="), NGX_HTTP_ASANA_PARAM_STATE, 0, 0, 0, 0, 0 },

    { ngx_string("encryption_key="), NGX_HTTP_ASANA_PARAM_KEY, 0,
      NGX_HTTP_ASANA_DEFINE_BOTH, 0, 0, 0 },

    { ngx_string("max_size="), NGX_HTTP_ASANA_PARAM_SIZE,
      offsetof(ngx_http_asana_zone_conf_t, store.max_size),
      NGX_HTTP_ASANA_DEFINE_HOST,
      256 * 1024 * 1024, 1024 * 1024, NGX_MAX_INT_T_VALUE },

    { ngx_string("inactive="), NGX_HTTP_ASANA_PARAM_TIME,
      offsetof(ngx_http_asana_zone_conf_t, store.limits.inactive),
      NGX_HTTP_ASANA_DEFINE_BOTH,
      24 * 60 * 60, 1, NGX_MAX_INT32_VALUE },

    { ngx_string("pending="), NGX_HTTP_ASANA_PARAM_TIME,
      offsetof(ngx_http_asana_zone_conf_t, store.limits.pending),
      NGX_HTTP_ASANA_DEFINE_BOTH,
      5 * 60, 1, NGX_MAX_INT32_VALUE },

    { ngx_string("max_secrets="), NGX_HTTP_ASANA_PARAM_NUMBER,
      offsetof(ngx_http_asana_zone_conf_t, store.limits.max_secrets),
      NGX_HTTP_ASANA_DEFINE_BOTH, 16, 1, 1000 },

    { ngx_string("poll="), NGX_HTTP_ASANA_PARAM_MSEC,
      offsetof(ngx_http_asana_zone_conf_t, store.poll),
      NGX_HTTP_ASANA_DEFINE_FLEET, 1000, 100, 60000 },

    { ngx_string("timeout="), NGX_HTTP_ASANA_PARAM_MSEC,
      offsetof(ngx_http_asana_zone_conf_t, store.timeout),
      NGX_HTTP_ASANA_DEFINE_FLEET, 2000, 100, 9000 },

    { ngx_string("stale="), NGX_HTTP_ASANA_PARAM_TIME,
      offsetof(ngx_http_asana_zone_conf_t, store.stale),
      NGX_HTTP_ASANA_DEFINE_FLEET, 24 * 60 * 60, 1, NGX_MAX_INT32_VALUE },

    { ngx_null_string, NGX_HTTP_ASANA_PARAM_NONE, 0, 0, 0, 0, 0 }
};


char *
ngx_http_asana_define(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_asana_main_conf_t *amcf = conf;

    ssize_t                            size;
    ngx_str_t                         *value;
    ngx_uint_t                         i;
    ngx_http_asana_zone_conf_t        *azcf;
    ngx_http_asana_define_param_t     *param;
    ngx_http_compile_complex_value_t   ccv;

    value = cf->args->elts;

    azcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_asana_zone_conf_t));
    if (azcf == NULL) {
        return NGX_CONF_ERROR;
    }

    for (param = ngx_http_asana_define_params; param->name.len; param++) {
        if (param->preset) {
            *ngx_http_asana_define_field(azcf, param) = param->preset;
        }
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
    azcf->zones = &amcf->zones;

    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_http_asana_define_parameter(cf, azcf, &value[i], &size)
            != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    if (azcf->name.len == 0 || azcf->store.state.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" must have the parameter "
                           "\"%s=\"", azcf->name.len ? "state" : "zone");
        return NGX_CONF_ERROR;
    }

    if (ngx_http_asana_define_fits(cf, azcf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return ngx_http_asana_define_add(cf, azcf, size);
}


/* whether there is such a store, and what it has no use for */

static ngx_int_t
ngx_http_asana_define_fits(ngx_conf_t *cf, ngx_http_asana_zone_conf_t *azcf)
{
    ngx_uint_t                      i, store;
    const char                     *reason;
    ngx_http_asana_define_param_t  *param;

    store = azcf->fleet ? NGX_HTTP_ASANA_DEFINE_FLEET
                        : NGX_HTTP_ASANA_DEFINE_HOST;

    param = ngx_http_asana_define_params;

    for (i = 0; param[i].name.len; i++) {

        if ((azcf->given & 1 << i) && param[i].stores
            && !(param[i].stores & store))
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"asana_hook_zone\" parameter \"%V\" has no "
                               "use with a \"state\" that is %s; take it out",
                               &param[i].name, azcf->fleet
                               ? "in PostgreSQL" : "a directory");
            return NGX_ERROR;
        }
    }

    if (azcf->backend == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" parameter "
                           "\"state=postgresql:\" needs "
                           "\"ngx_http_asana_hook_postgres_module\"; load it "
                           "by \"load_module\" (on Debian from the package "
                           "libnginx-mod-http-asana-hook-postgres)");
        return NGX_ERROR;
    }

    if (azcf->fleet && azcf->store.seal == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" must have the parameter "
                           "\"encryption_key=\" with a \"state\" in "
                           "PostgreSQL");
        return NGX_ERROR;
    }

    reason = azcf->backend->check ? azcf->backend->check(&azcf->store) : NULL;

    if (reason) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"asana_hook_zone\" parameter \"state\": "
                           "%s", reason);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_define_key(ngx_conf_t *cf, ngx_http_asana_zone_conf_t *azcf,
    ngx_str_t *s)
{
    if (ngx_conf_full_name(cf->cycle, s, 1) != NGX_OK) {
        return NGX_ERROR;
    }

    azcf->store.seal = ngx_asana_seal_open(cf->pool, s, cf->log);

    return azcf->store.seal ? NGX_OK : NGX_ERROR;
}


static char *
ngx_http_asana_define_add(ngx_conf_t *cf, ngx_http_asana_zone_conf_t *azcf,
    ssize_t size)
{
    ngx_shm_zone_t               *shm_zone;
    ngx_http_asana_zone_conf_t  **zp;

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

    zp = ngx_array_push(azcf->zones);
    if (zp == NULL) {
        return NGX_CONF_ERROR;
    }

    *zp = azcf;

    azcf->store.zone = azcf->name;

    azcf->zone = ngx_asana_zone_create(cf->pool, azcf->backend, &azcf->store);
    if (azcf->zone == NULL) {
        return NGX_CONF_ERROR;
    }

    azcf->tally = ngx_asana_tally_create(cf->pool, azcf->zone);
    if (azcf->tally == NULL) {
        return NGX_CONF_ERROR;
    }

    shm_zone->init = ngx_http_asana_conf_init_zone;
    shm_zone->data = azcf;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_asana_define_parameter(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ssize_t *size)
{
    ngx_str_t                       s;
    ngx_uint_t                      bit;
    ngx_http_asana_define_param_t  *param;

    for (param = ngx_http_asana_define_params; param->name.len; param++) {
        if (value->len > param->name.len
            && ngx_strncmp(value->data, param->name.data, param->name.len)
               == 0)
        {
            break;
        }
    }

    s.data = value->data + param->name.len;
    s.len = value->len - param->name.len;

    bit = 1 << (param - ngx_http_asana_define_params);

    if (param->name.len && (azcf->given & bit)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "duplicate \"asana_hook_zone\" parameter \"%V\"",
                           &param->name);
        return NGX_ERROR;
    }

    azcf->given |= bit;

    switch (param->type) {

    case NGX_HTTP_ASANA_PARAM_ZONE:
        return ngx_http_asana_define_name(cf, azcf, value, &s, size);

    case NGX_HTTP_ASANA_PARAM_STATE:
        return ngx_http_asana_define_state(cf, azcf, value, &s);

    case NGX_HTTP_ASANA_PARAM_KEY:
        return ngx_http_asana_define_key(cf, azcf, &s);

    case NGX_HTTP_ASANA_PARAM_NONE:
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"asana_hook_zone\" parameter \"%V\"",
                           value);
        return NGX_ERROR;

    default:
        return ngx_http_asana_define_number(cf, azcf, value, &s, param);
    }
}


static ngx_int_t
ngx_http_asana_define_name(ngx_conf_t *cf, ngx_http_asana_zone_conf_t *azcf,
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

    if (azcf->name.len == 3 && ngx_strncmp(azcf->name.data, "off", 3) == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" parameter \"%V\" names the "
                           "zone \"off\", which is what turns a receiver off; "
                           "give it another name", value);
        return NGX_ERROR;
    }

    *size = ngx_parse_size(&bytes);

    if (*size == NGX_ERROR) {
        goto invalid;
    }

    if (*size < (ssize_t) (8 * ngx_pagesize)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" parameter \"%V\" is too "
                           "small, at least %uzk is needed", value,
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
ngx_http_asana_define_number(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s,
    ngx_http_asana_define_param_t *param)
{
    ngx_int_t    n;
    const char  *unit;

    switch (param->type) {

    case NGX_HTTP_ASANA_PARAM_SIZE:
        n = (ngx_int_t) ngx_parse_offset(s);
        unit = " bytes (or with \"k\", \"m\", \"g\")";
        break;

    case NGX_HTTP_ASANA_PARAM_TIME:
        n = ngx_parse_time(s, 1);
        unit = " seconds (or with \"s\", \"m\", \"h\", \"d\")";
        break;

    case NGX_HTTP_ASANA_PARAM_MSEC:
        n = ngx_parse_time(s, 0);
        unit = " milliseconds (\"ms\", or with \"s\", \"m\")";
        break;

    default: /* NGX_HTTP_ASANA_PARAM_NUMBER */
        n = ngx_atoi(s->data, s->len);
        unit = "";
    }

    if (n < param->min || n > param->max) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"asana_hook_zone\" parameter \"%V\", it "
                           "must be %i to %i%s", value, param->min, param->max,
                           unit);
        return NGX_ERROR;
    }

    *ngx_http_asana_define_field(azcf, param) = n;

    return NGX_OK;
}


/* a path that nginx makes for its workers, as it makes "proxy_temp_path" */

static ngx_int_t
ngx_http_asana_define_state(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s)
{
    ngx_uint_t                    i;
    ngx_path_t                   *path;
    ngx_http_asana_zone_conf_t  **zones;

    azcf->store.state = *s;

    if (ngx_strncmp(s->data, "postgresql:", 11) == 0
        || ngx_strncmp(s->data, "postgres:", 9) == 0)
    {
        azcf->backend = ngx_http_asana_define_fleet;
        azcf->fleet = 1;

        return NGX_OK;
    }

    azcf->backend = &ngx_asana_lmdb;

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

    zones = azcf->zones->elts;

    for (i = 0; i < azcf->zones->nelts; i++) {
        if (zones[i]->path
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
    azcf->store.state = path->name;

    return ngx_add_path(cf, &azcf->path);
}
