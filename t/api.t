# Tests for asana_hook_api: every call, and what is no call.

use strict;
use warnings;

use lib 't/lib';

use Encode qw(decode FB_CROAK LEAVE_SRC);
use IO::Socket::UNIX;
use JSON::PP;
use Test::More;

use Receiver qw(request response secret_id version wait_for);

my $t = Receiver->new(
    zone   => 'max_secrets=3 pending=1h',
    server => 'listen unix:api.sock;
        large_client_header_buffers 4 16k;
        location /api { asana_hook_api hooks write=on; }
        location /slash/ { asana_hook_api hooks; }
        location = /exact { asana_hook_api hooks; }
        location = /exact/hooks { asana_hook_api hooks write=on; }
        location /off { asana_hook_api hooks write=off; }
        location /confirm {
            asana_hook hooks;
            asana_hook_enroll confirm;
            proxy_pass http://127.0.0.1:1;
        }'
);
$t->{server} =~ s/unix:/unix:$t->{dir}\//;

# "asana_hook" of the server is inherited by all locations
$t->{server} .= 'asana_hook hooks;';
$t->app->run;

sub secret { my ($n) = @_; return "secret-$n-" . 'x' x 40 }

sub escape {
    my ($key) = @_;
    $key =~ s/([^A-Za-z0-9._~-])/sprintf '%%%02X', ord $1/ge;
    return $key;
}

sub unescape {
    my ($ref) = @_;
    $ref =~ s/%([0-9A-F]{2})/chr hex $1/ge;
    return $ref;
}

sub api {
    my ($method, $uri, @headers) = @_;
    return $t->call($method, "/api$uri", [@headers]);
}

sub put {
    my ($key, $secret) = @_;
    return api('PUT', '/hooks?key=' . escape($key), "X-Hook-Secret: $secret");
}

# The document of an answer, which must be one; undef if it is not.

sub json {
    my ($r) = @_;
    return unless $r->{head} =~ m{^Content-Type: application/json\r$}m;
    return eval { decode_json($r->{body}) };
}

sub get { my ($uri) = @_; return json(api('GET', $uri)) || {} }

# An error: its status, and nothing but {"error":"..."} in it.

sub error_is {
    my ($r, $status, $name) = @_;
    my $json = json($r) || {};
    is "$r->{status} " . join(',', keys %$json), "$status error",
        "$name: $status, as JSON"
        or diag $r->{head}, $r->{body};
    unlike $r->{head} . $r->{body}, qr/^X-Hook-Secret|secret-\d+-/mi,
        'without a secret';
    return;
}

# GET / before anything was stored, and after

my $info = get('/');
is $info->{zone}, 'hooks', 'GET /: the zone';
is $info->{version}, version(), 'version';
is $info->{size}, 1048576, 'size';
is $info->{entries}, 0, 'entries';
is join(' ', @{ $info->{store} }{qw(keys secrets pending commits)}),
    '0 0 0 0', 'an empty store';
is join(' ', sort keys %{ $info->{store} }),
    'commits conflicts failures keys kind lookups max_size pending queries '
        . 'readable secrets size writable',
    'members of the store';
is $info->{store}{max_size}, 256 * 1048576, 'max_size';
is join(' ', sort keys %{ $info->{gateway} }),
    'confirmed error refused revoked unmatched unreadable', 'of the gateway';
ok $info->{store}{readable}, 'a store that can be read';
is join(' ', sort keys %{ $info->{handshakes} }),
    'aborted error handshake malformed refused', 'words of handshakes';
like join(' ', sort keys %{ $info->{deliveries} }),
    qr/error .*heartbeat invalid .*malformed .*verified/,
    'words of deliveries';
is_deeply get('/hooks'), { hooks => [], next => undef }, 'no hooks yet';
is api('GET', '/hooks?key=%2Fa')->{status}, 404, 'nor any key';
is api('DELETE', '/hooks?key=%2Fa')->{status}, 404, 'nothing to delete';

# PUT

my $r = put('localhost/a', secret(1));
is $r->{status}, 201, 'PUT: 201 for a new one';
is_deeply [sort keys %{ json($r) || {} }], [qw(health key ref secrets)], 'a HOOK';
is put('localhost/a', secret(1))->{status}, 200, 'and 200 for the same';
$r = put('localhost/a', secret(2));
is $r->{status}, 201, 'another one of the key';
my $hook = json($r);
is $hook->{key}, 'localhost/a', 'its key';
is $hook->{ref}, 'localhost%2Fa', 'and that as an argument';
is_deeply [sort map { $_->{id} } @{ $hook->{secrets} }],
    [sort map { secret_id(secret($_)) } 1, 2], 'with both ids';
is_deeply [sort keys %{ $hook->{secrets}[0] }],
    [qw(answered code created deleted_at deliveries failing_since health id
        state verified webhook)],
    'members of a secret';
like $hook->{secrets}[0]{created}, qr/^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$/,
    'created';
is $hook->{secrets}[0]{verified}, undef, 'not verified yet';
is $hook->{secrets}[0]{state}, 'active', 'active';

is $t->deliver('/a', secret($_), 'x')->{status}, 200, "$_ verifies" for 1, 2;
is $t->deliver('/a', secret(2), 'x')->{status}, 200, 'again';
ok wait_for(sub {
    my %n = map { $_->{id} => $_->{deliveries} }
        @{ get('/hooks?key=localhost%2fa')->{secrets} };
    return $n{ secret_id(secret(1)) } == 1 && $n{ secret_id(secret(2)) } == 2;
}), 'deliveries are counted';
like get('/hooks?key=localhost%2Fa')->{secrets}[0]{verified}, qr/^20.*Z$/,
    'and have a time';
is_deeply get('/hooks')->{hooks}[0], get('/hooks?key=localhost/a'),
    'the listing says the same';

put('localhost/a', secret(3));
error_is put('localhost/a', secret(4)), 409, 'more than max_secrets';
is put('localhost/a', secret(3))->{status}, 200, 'one of them is fine';

# X-Hook-Secret

for my $case (
    ['missing',     ()],
    ['empty',       'X-Hook-Secret:'],
    ['short',       'X-Hook-Secret: ' . 'a' x 15],
    ['long',        'X-Hook-Secret: ' . 'a' x 256],
    ['with a space', 'X-Hook-Secret: aaaaaaaaaaaa aaaaaaaaaa'],
    ['not ASCII',   'X-Hook-Secret: aaaaaaaaaaaa\xffaaaaaaaaaa'],
    ['repeated',    ('X-Hook-Secret: ' . secret(4)) x 2]
    )
{
    my ($name, @headers) = @$case;
    s/\\xff/\xff/ for @headers;
    error_is api('PUT', '/hooks?key=localhost/b', @headers), 400,
        "a secret that is $name";
}
is api('GET', '/hooks?key=localhost/b')->{status}, 404, 'nothing is stored';
is put('localhost/b', 'a' x $_)->{status}, 201, "$_ characters are right"
    for 16, 255;
error_is $t->call('PUT', '/api/hooks?key=b',
    ['X-Hook-Secret: ' . secret(4)], 'body'), 400, 'PUT with a body';
error_is $t->call('DELETE', '/api/hooks?key=localhost/b', [], 'body'), 400,
    'DELETE with a body';
error_is $t->http("PUT /api/hooks?key=b HTTP/1.1\r\nHost: localhost\r\n"
        . "Connection: close\r\nTransfer-Encoding: chunked\r\n"
        . 'X-Hook-Secret: ' . secret(4) . "\r\n\r\n0\r\n\r\n"),
    400, 'a chunked body';
is $t->call('PUT', '/api/hooks?key=b', ['X-Hook-Secret: ' . secret(4)], '')
    ->{status}, 201, 'a length of 0 is none';

# DELETE

my $id = secret_id(secret(1));
is $t->deliver('/a', secret(1), 'x')->{status}, 200, 'before DELETE';
$r = api('DELETE', "/hooks?key=localhost/a&id=$id");
is $r->{status}, 204, 'DELETE of one';
is $r->{body}, '', 'says nothing';
is $t->deliver('/a', secret(1), 'x')->{status}, 403, 'it verifies no more';
is $t->deliver('/a', secret(2), 'x')->{status}, 200, 'the other one does';
error_is api('DELETE', "/hooks?key=localhost/a&id=$id"), 404, 'once more';
$id = uc secret_id(secret(2));
is api('DELETE', "/hooks?id=$id&key=localhost/a")->{status}, 204,
    'an id in capitals, in front of the key';
is api('DELETE', '/hooks?key=localhost/b')->{status}, 204, 'DELETE of all';
is $t->deliver('/b', 'a' x $_, 'x')->{status}, 403, 'none verifies'
    for 16, 255;
error_is api('GET', '/hooks?key=localhost/b'), 404, 'the key is gone';
error_is api('DELETE', '/hooks?key=localhost/b'), 404, 'and cannot go again';

# methods, for each the calls that know it

for my $uri ('/', '', '/metrics', '/hooks', '/hooks?key=localhost/a') {
    my $got = api('GET', $uri);
    my $head = api('HEAD', $uri);
    is "$got->{status} $head->{status}", '200 200', "HEAD $uri";
    is $head->{body}, '', 'has no body';
    my ($length, $type) = map { $_->{head} =~ /^Content-Length: (\d+)/m } $got,
        $head;
    is $length, $type, 'and the same length' unless $uri =~ m{^/?$|metrics};
    like $head->{head}, qr/^Cache-Control: no-store\r$/m, 'is not kept';
    my $write = $uri =~ /hooks/ ? ', PUT, DELETE' : '';
    for my $method (qw(OPTIONS POST PATCH TRACE PROPFIND NONSENSE PUT)) {
        next if $write && $method eq 'PUT';
        $r = api($method, $uri);

        # nginx itself answers TRACE
        next if $method eq 'TRACE' && $r->{status} == 405;
        if ($method eq 'OPTIONS') {
            is $r->{status}, 204, "$method $uri";
        } else {
            error_is $r, 405, "$method $uri";
        }
        like $r->{head}, qr/^Allow: GET, HEAD, OPTIONS$write\r$/m, 'Allow';
    }
}

for my $prefix (qw(/slash /exact /off)) {
    my $uri = $prefix eq '/exact' ? $prefix : "$prefix/hooks";
    for my $method (qw(PUT DELETE)) {
        $r = $t->call($method, "$uri?key=localhost/a",
            ['X-Hook-Secret: ' . secret(9)]);
        error_is $r, 405, "$method without write=on at $prefix";
        like $r->{head}, qr/^Allow: GET, HEAD, OPTIONS\r$/m, 'Allow';
    }
}
is_deeply [map { $_->{id} } @{ get('/hooks?key=localhost/a')->{secrets} }],
    [secret_id(secret(3))], 'nothing changed';

# what follows the prefix

for my $case (
    ['/api',          'zone'],
    ['/api/',         'zone'],
    ['/api//',        'zone'],
    ['/api/hooks',    'hooks'],
    ['/api//hooks',   'hooks'],
    ['/api/%68ooks',  'hooks'],
    ['/slash/',       'zone'],
    ['/slash/hooks',  'hooks'],
    ['/exact',        'zone'],
    ['/exact/hooks',  'zone'],
    ['/off/hooks',    'hooks'],
    ['/api?',         'zone'],
    ['/api/hooks?',   'hooks']
    )
{
    my ($uri, $member) = @$case;
    $r = $t->call('GET', $uri);
    is "$r->{status} " . exists((json($r) || {})->{$member}), '200 1',
        "GET $uri";
}
for my $uri ('/apihooks', '/apix', '/apimetrics', '/api%68ooks',
    '/slash/hooks/', '/api/hooks/', '/api/hook', '/api/hooksx', '/api/Hooks',
    '/api/hooks/x', '/api/metrics/', '/api/x', '/slash/x')
{
    error_is $t->call('GET', $uri), 404, "GET $uri";
    error_is $t->call('DELETE', $uri), 404, "DELETE $uri";
}
$r = $t->call('GET', '/api/metrics');
like $r->{head}, qr{^Content-Type: text/plain; version=0\.0\.4\r$}m,
    'metrics are text';

# arguments

for my $case (
    ['GET', '/?x=1'], ['GET', '/?'  . 'limit=1'],
    ['GET', '/metrics?key=a'],    ['GET', '/hooks?x=1'],
    ['GET', '/hooks?limit=1&x=1'], ['GET', '/hooks?key'],
    ['GET', '/hooks?&'],          ['GET', '/hooks?limit=1&'],
    ['GET', '/hooks?&limit=1'],   ['GET', '/hooks?=1'],
    ['GET', '/hooks?Limit=1'],    ['GET', '/hooks?limit%3D1'],
    ['GET', '/hooks?limit=1&limit=1'],
    ['GET', '/hooks?key=a&key=a'], ['GET', '/hooks?after=a&after=b'],
    ['GET', '/hooks?key=a&limit=1'], ['GET', '/hooks?key=a&after=b'],
    ['GET', '/hooks?key='],       ['GET', '/hooks?after='],
    ['GET', '/hooks?id=0123456789abcdef'],
    ['GET', '/hooks?key=a&id=0123456789abcdef'],
    (map { ['GET', "/hooks?limit=$_"] } '', 0, 1001, -1, '+1', '1x', 'x',
        '1.5', '%', '99999999999999999999'),
    (map { ['GET', "/hooks?key=$_"] } '%', '%2', '%zz', '%2g', 'a%', 'a%0',
        '%%41', '%u0041', 'a' x 481, '%61' x 481),
    (map { ['GET', "/hooks?after=$_"] } '%', 'a' x 481),
    ['PUT', '/hooks'], ['PUT', '/hooks?key='], ['PUT', '/hooks?key=%'],
    ['PUT', '/hooks?key=a&id=0123456789abcdef'],
    ['PUT', '/hooks?key=a&limit=1'], ['PUT', '/hooks?key=a&key=a'],
    ['PUT', '/hooks?key=' . 'a' x 481],
    ['DELETE', '/hooks'], ['DELETE', '/hooks?id=0123456789abcdef'],
    ['DELETE', '/hooks?key=a&x=1'], ['DELETE', '/hooks?key=a&limit=1'],
    ['DELETE', '/hooks?key=' . 'a' x 481],
    (map { ['DELETE', "/hooks?key=localhost/a&id=$_"] } '', 'a' x 15,
        'a' x 17, 'g' x 16, '0x23456789abcdef', '%', '+123456789abcdef')
    )
{
    my ($method, $uri) = @$case;
    error_is api($method, $uri, 'X-Hook-Secret: ' . secret(9)), 400,
        "$method " . substr $uri, 0, 50;
}
is scalar(@{ get('/hooks?key=localhost/a')->{secrets} }), 1,
    'what has one argument too many deletes nothing';

# keys of all sorts, by the API and by a handshake

my @odd = (
    '/plain',           '/a b',        '/a+b',         '/a&b=c',
    '/%',               '/%41',        '/"quoted"',    '/back\\slash',
    "/tab\tlf\ncr\r",   "/\x01\x1f\x7f", "/nul\0nul",  "/\xff\xfe",
    "/\xc3\xa4",        "/\xc3",       "/\xc3\xff",    "/\xe2\x82\xac",
    "/\xe2\x82",        "/\xed\xa0\x80", "/\xf0\x9f\x98\x80",
    "/\xf4\x90\x80\x80", "/\xf8\x88\x80\x80\x80", "/\xfc\x80\x80\x80",
    "/\xc0\xaf",        "/\xe0\x80\xaf", "/\x80\xbf", "/\xf0\x9f\x98",
    "/\xe2\xe2\x82\xac", '/</script>', '/' . 'k' x 470, "/\xc2\x85",
    "/\xe2\x80\xa8", "/\xef\xbf\xbe",
    (map { "/a\xc2" . chr($_) . 'b' } 0x80, 0x9b, 0x9f, 0xa0),
    (map { "/a\xe2\x80" . chr($_) . 'b' } 0x8d .. 0x90, 0xa7 .. 0xaf),
    (map { "/a\xe2\x81" . chr($_) . 'b' } 0xa5 .. 0xaa),
    (map { "/a$_" } "\xd8\x9bb", "\xd8\x9cb", "\xd8\x9db", "\xd8\x9c")
);

# what turns text, or is a line or a command to a terminal

my $unsafe = qr/[\0-\x1f\x7f-\x9f]
    |[\x{61c}\x{200e}\x{200f}\x{2028}-\x{202e}\x{2066}-\x{2069}]/x;


for my $path (@odd) {
    my $key = "localhost$path";
    my $name = 'a key: ' . escape(substr $path, 0, 20);
    $r = put($key, secret(7));

    if ($path =~ /[\0-\x1f\x7f]/) {
        is $r->{status}, 400, "$name is no good";
        is $t->deliver('/' . escape(substr $path, 1), secret(7), 'x')
            ->{status}, 403, 'nor that of deliveries'
            unless $path =~ /\0/;
        next;
    }

    is $r->{status}, 201, $name;
    my $json = json($r) || {};
    my $text = eval { decode('UTF-8', $key, FB_CROAK | LEAVE_SRC) };
    is $json->{key}, $text, 'its text' if defined $text;
    is unescape($json->{ref} || ''), $key, 'its bytes';
    my $raw = $r->{body} =~ s/\n\z//r;
    unlike decode('UTF-8', $raw), $unsafe, 'nothing raw that is unsafe';
    my @escapes = map { chr hex } $r->{body} =~ /\\u([0-9a-f]{4})/g;
    is scalar(grep { !/$unsafe|\x{fffd}/ } @escapes), 0,
        'and nothing escaped that is safe';
    is_deeply json(api('GET', "/hooks?key=$json->{ref}")), $json,
        'ref is an argument';
    is $t->deliver('/' . escape(substr $path, 1), secret(7), 'x')->{status},
        200,
        'and the key of deliveries'
        unless length $path > 400;
    is api('DELETE', "/hooks?key=$json->{ref}")->{status}, 204, 'deleted';
}

my %fffd = (
    "/\xff\xfe"         => "/\x{fffd}\x{fffd}",
    "/\xc3\xff"         => "/\x{fffd}\x{fffd}",
    "/\xc3"             => "/\x{fffd}",
    "/a\xffb"           => "/a\x{fffd}b",
    "/\xc0\xaf"         => "/\x{fffd}\x{fffd}",
    "/\xed\xa0\x80"     => "/\x{fffd}\x{fffd}\x{fffd}",
    "/\xfc\x80\x80\x80" => "/\x{fffd}\x{fffd}\x{fffd}\x{fffd}",
    "/\xe2\xe2\x82\xac" => "/\x{fffd}\x{20ac}"
);
for my $path (sort keys %fffd) {
    is +(json(put("localhost$path", secret(7))) || {})->{key},
        "localhost$fffd{$path}", 'U+FFFD for ' . escape($path);
    api('DELETE', '/hooks?key=' . escape("localhost$path"));
}

is $t->handshake('/confirm/%22%ff', secret(8))->{status}, 200,
    'a handshake of an odd key';
($hook) = grep { $_->{ref} =~ /confirm/ } @{ get('/hooks')->{hooks} };
is $hook->{secrets}[0]{state}, 'pending', 'is listed as pending';
is api('PUT', "/hooks?key=$hook->{ref}", 'X-Hook-Secret: ' . secret(8))
    ->{status}, 200, 'and confirmed by its ref';
is get("/hooks?key=$hook->{ref}")->{secrets}[0]{state}, 'active', 'active';
api('DELETE', "/hooks?key=$hook->{ref}");

# pages

api('DELETE', "/hooks?key=$_->{ref}") for @{ get('/hooks')->{hooks} };
my @keys = sort map { "localhost/page/" . ($_ % 7 ? "k$_" : "\xff&$_ +%") }
    1 .. 2500;
my @puts = map {
    'PUT /api/hooks?key=' . escape($_) . " HTTP/1.1\r\nHost: x\r\n"
        . "X-Hook-Secret: " . secret(5) . "\r\n\r\n"
} @keys;
is scalar(grep { $_->{status} == 201 } $t->many(@puts)), 2500,
    '2,500 keys are put';
is get('/')->{store}{keys}, 2500, 'as the store knows';

sub pages {
    my ($limit) = @_;
    my (@got, @sizes);
    my $args = $limit ? "limit=$limit" : '';
    while (@sizes < 3000) {
        my $page = get("/hooks?$args");
        push @sizes, scalar @{ $page->{hooks} || [] };
        push @got, map { unescape($_->{ref}) } @{ $page->{hooks} };
        last unless $page->{next};
        $args = ($limit ? "limit=$limit&" : '') . "after=$page->{next}";
    }
    return (\@got, @sizes);
}

for my $case ([0, (100) x 25], [1000, 1000, 1000, 500], [999, 999, 999, 502],
    [500, (500) x 5], [7, (7) x 357, 1])
{
    my ($limit, @want) = @$case;
    my ($got, @sizes) = pages($limit);
    is_deeply $got, \@keys, "pages of $limit: each key once, in order";
    is "@sizes", "@want", 'as many as asked for';
}
is unescape(get('/hooks?limit=1')->{hooks}[0]{ref}), $keys[0], 'one';
is_deeply get('/hooks?after=localhost/page0')->{hooks}, [],
    'nothing behind the last';
is scalar(@{ get('/hooks?after=localhost/page/')->{hooks} }), 100,
    'after what is no key';
is unescape(get('/hooks?limit=1&after=localhost/page/k10')->{hooks}[0]{ref}),
    'localhost/page/k100', 'a key that another begins with';
is scalar(@{ get('/hooks?after=' . 'a' x 480)->{hooks} }), 100, '480 bytes';

# a unix socket

my $s = IO::Socket::UNIX->new(Peer => "$t->{dir}/api.sock");
request($s, "GET /api/hooks?limit=1 HTTP/1.1\r\nHost: x\r\n\r\n");
is scalar(@{ json(response($s))->{hooks} }), 1, 'over a unix socket';
request($s, "DELETE /api/hooks?key=none HTTP/1.1\r\nHost: x\r\n\r\n");
is response($s)->{status}, 404, 'the connection is kept';
request($s, "OPTIONS /api HTTP/1.1\r\nHost: x\r\n\r\n");
is response($s, 10, 1)->{status}, 204, 'after an error';
request($s, "GET /api HTTP/1.1\r\nHost: x\r\n\r\n");
is response($s)->{status}, 200, 'and after 204';
close $s;

# an answer of the API depends on no condition of the request

for my $condition ('If-Match: "x"', 'If-None-Match: *',
    'If-Unmodified-Since: Thu, 01 Jan 1970 00:00:01 GMT',
    'If-Modified-Since: Fri, 31 Dec 2100 00:00:00 GMT')
{
    my @got = map { $_->{status} } (
        api('PUT', '/hooks?key=condition', 'X-Hook-Secret: ' . secret(6),
            $condition),
        api('PUT', '/hooks?key=condition', 'X-Hook-Secret: ' . secret(6),
            $condition),
        (map { api('GET', $_, $condition) } '/', '/metrics',
            '/hooks?key=condition', '/hooks?limit=1'),
        api('DELETE', '/hooks?key=condition', $condition)
    );
    is "@got", '201 200 200 200 200 200 204', $condition;
}

$t->secrecy(map { secret($_) } 1 .. 9);
$t->end;

# without any "asana_hook"

$t = Receiver->new;
my $conf = $t->conf;
$conf =~ s/asana_hook hooks;/asana_hook_api hooks write=on;/;
$conf =~ s/proxy_(pass|set_header) .*;//g;
$t->run($conf);
$r = $t->call('PUT', '/hooks?key=a', ['X-Hook-Secret: ' . secret(1)]);
is $r->{status}, 201, 'an API and nothing else: PUT';
is json($t->call('GET', '/'))->{store}{keys}, 1, 'GET /';
$t->end;

# configuration

$t = Receiver->new(expect => qr/\[emerg\]/);
my $start = $t->globals;
my $http  = $t->globals_http
    . "asana_hook_zone \$uri zone=hooks:1m state=$t->{dir}/state;";

sub config {
    my ($lines) = @_;
    return $t->test_config("$start http { $http server { "
            . "listen 127.0.0.1:$t->{port}; $lines } }");
}

for my $case (
    ['an unknown zone', 'location /a { asana_hook_api nosuch; }',
        '"asana_hook_api".*nosuch'],
    ['an empty zone', 'location /a { asana_hook_api ""; }',
        '"asana_hook_api".*empty'],
    ['no zone', 'location /a { asana_hook_api; }', '"asana_hook_api"'],
    ['three', 'location /a { asana_hook_api hooks write=on x; }',
        '"asana_hook_api"'],
    ['a bad parameter', 'location /a { asana_hook_api hooks write=yes; }',
        '"asana_hook_api".*write=yes'],
    ['another', 'location /a { asana_hook_api hooks read=on; }',
        '"asana_hook_api".*read=on'],
    ['a regular expression', 'location ~ /a { asana_hook_api hooks; }',
        '"asana_hook_api".*location'],
    ['a named location', 'location @a { asana_hook_api hooks; }',
        '"asana_hook_api".*location'],
    ['a server', 'asana_hook_api hooks;', '"asana_hook_api"'],
    ['if', 'location /a { if ($arg_x) { asana_hook_api hooks; } }',
        '"asana_hook_api"'],
    ['twice', 'location /a { asana_hook_api hooks; asana_hook_api hooks; }',
        '"asana_hook_api".*duplicate'],
    ['dry_run', 'location /a { asana_hook_dry_run maybe; }',
        '"asana_hook_dry_run"|maybe']
    )
{
    my ($name, $lines, $pattern) = @$case;
    my ($code, $text) = config($lines);
    is $code, 1, "$name is refused";
    like $text, qr/\[emerg\].*(?:$pattern)/, 'and says so';
}
for my $lines (
    'location /a { asana_hook_api hooks; }',
    'location = /a { asana_hook_api hooks write=off; }',
    'location ^~ /a { asana_hook_api hooks write=on; }'
    )
{
    my ($code, $text) = config($lines);
    is $code, 0, $lines or diag $text;
}
$t->end;

# what lies in or beside an API stays behind the hook

my $inner = Receiver->new(
    server => 'asana_hook hooks;
        location /api { asana_hook_api hooks;
            location /api/in { proxy_pass http://127.0.0.1:APP; }
        }
        location /both { asana_hook_api hooks;
            proxy_pass http://127.0.0.1:APP; }
        location /if { asana_hook_api hooks;
            if ($arg_x) { proxy_pass http://127.0.0.1:APP; }
        }'
);
$inner->{server} =~ s/APP/$inner->{app_port}/g;
$inner->app->run;
for my $uri ('/api/in', '/both', '/if?x=1') {
    is $inner->call('POST', $uri, [], 'unsigned')->{status}, 403,
        "an unsigned POST $uri";
}
is $inner->call('POST', $_, [], 'unsigned')->{status}, 405, "but $_"
    for '/api', '/if';
is scalar(my @seen = $inner->seen), 0, 'nothing arrives';
$inner->end;

done_testing;
