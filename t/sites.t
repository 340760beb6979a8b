# Tests for writes that a browser sends from another site.

use strict;
use warnings;

use lib 't/lib';

use JSON::PP qw(decode_json);
use Test::More;

use HTTP2;
use Receiver qw(request response);

my $t = Receiver->new(
    server => 'location /api/ { asana_hook_api hooks write=on; }
        location /create { asana_hook_gateway hooks; proxy_pass '
        . 'http://127.0.0.1:APP; }
        location /plain { proxy_pass http://127.0.0.1:APP; }'
)->app;
$t->{server} =~ s/APP/$t->{app_port}/g;
my $conf = $t->conf;
my $two  = Receiver::port();
my $h2   = ($t->nginx('-V'))[1] =~ /http_v2_module/;
$conf =~ s/(listen 127.0.0.1:\d+;)/$1 listen 127.0.0.1:$two http2;/ if $h2;
$t->run($conf);
$t->answer(201, '', '{}');

my $secret = 'secret-' . 's' x 40;
my $key    = '/api/hooks?key=a';

sub call {
    my ($method, $uri, $host, @headers) = @_;
    return $t->http(join "\r\n", "$method $uri HTTP/1.1", "Host: $host",
        'Connection: close', "X-Hook-Secret: $secret", @headers,
        $method eq 'POST' ? ('Content-Length: 1', '', 'x') : ('', ''));
}

# [headers, whether it is refused, Host]

my @cases = (
    [[], 0],
    [['Sec-Fetch-Site: same-origin'], 0],
    [['sec-fetch-site: none'], 0],
    [['Sec-Fetch-Site: cross-site'], 1],
    [['Sec-Fetch-Site: same-site'], 1],
    [['SEC-FETCH-SITE: Cross-Site'], 1],
    [['Sec-Fetch-Site:'], 1],
    [['Sec-Fetch-Site: same-origin', 'Sec-Fetch-Site: cross-site'], 1],
    [['Sec-Fetch-Site: cross-site', 'Sec-Fetch-Site: none'], 1],
    [['Origin: http://localhost'], 0],
    [['Origin: https://localhost'], 0],
    [['Origin: HTTP://LocalHost'], 0],
    [['Origin: http://localhost:8080'], 1],
    [['Origin: http://localhost:8080'], 0, 'localhost:8080'],
    [['Origin: http://localhost'], 1, 'localhost:8080'],
    [['Origin: http://[::1]:8080'], 0, '[::1]:8080'],
    [['Origin: http://[::1]'], 1, '[::1]:8080'],
    [['Origin: http://example.com'], 1],
    [['Origin: http://localhost.example.com'], 1],
    [['Origin: http://alocalhost'], 1],
    [['Origin: http://localhos'], 1],
    [['Origin: localhost'], 1],
    [['Origin: http://'], 1],
    [['Origin: null'], 1],
    [['Origin:'], 1],
    [['Origin: http://localhost', 'Origin: http://example.com'], 1],
    [['Origin: http://localhost', 'Sec-Fetch-Site: same-origin'], 0],
    [['Origin: http://localhost', 'Sec-Fetch-Site: cross-site'], 1],
    [['Origin: http://example.com', 'Sec-Fetch-Site: same-origin'], 1],
    [['Referer: http://example.com/'], 0],
    [[(map {"X-$_: x"} 1 .. 30), 'Sec-Fetch-Site: cross-site'], 1],
);

for my $case (@cases) {
    my ($headers, $refused, $host) = @{$case};
    $host ||= 'localhost';
    my $name = substr join(', ', $host eq 'localhost' ? () : "Host: $host",
        @{$headers}), 0, 60;

    for my $method (qw(PUT DELETE)) {
        call('PUT', $key, 'x') if $method eq 'DELETE';
        my $r = call($method, $key, $host, @{$headers});
        my $want = $refused ? 403 : $method eq 'PUT' ? 201 : 204;
        is $r->{status}, $want, "$method: $want: $name";
        ok eval { decode_json($r->{body})->{error} }, 'as JSON' if $refused;
        call('DELETE', $key, 'x');
    }
    my @read = map { call($_, '/api/hooks', $host, @{$headers})->{status} }
        qw(GET HEAD OPTIONS);
    is "@read", '200 200 204', "reading: $name";

    $t->seen;
    for my $method (qw(POST DELETE PUT PATCH)) {
        my $want = $refused ? 403 : 201;
        is call($method, '/create', $host, @{$headers})->{status}, $want,
            "the gateway, $method: $want: $name";
        is scalar(my @seen = $t->seen), $refused ? 0 : 1,
            $refused ? 'nothing gets through' : 'gets through';
    }
    is call($_, '/create', $host, @{$headers})->{status}, 201,
        "the gateway, $_: $name" for qw(GET OPTIONS);
    is call('POST', '/plain', $host, @{$headers})->{status}, 201,
        'another location is not concerned';
}
like $t->slurp('error.log'), qr/refused by zone "hooks".*another site/,
    'the log says why';
like $t->slurp('access.log'), qr{^POST /create 403 \[REFUSED\]}m, 'REFUSED';

# without a Host nothing can match

is $t->http("PUT $key HTTP/1.0\r\nOrigin: http://localhost\r\n"
        . "X-Hook-Secret: $secret\r\n\r\n")->{status}, 403, 'no Host: 403';
is $t->http("PUT $key HTTP/1.0\r\nX-Hook-Secret: $secret\r\n\r\n")->{status},
    201, 'but no Origin either: 201';

SKIP: {
    skip 'nginx has no HTTP/2', 3 if !$h2;
    for my $case (['http://example.com', 403], ['https://localhost', 200],
        ['null', 403])
    {
        my ($origin, $want) = @{$case};
        my $h  = HTTP2->new($t->connection($two));
        my $id = $h->headers(1, [':method', 'PUT'], [':path', $key],
            ['x-hook-secret', $secret], ['origin', $origin]);
        is $h->wait($id)->{status}, $want, "HTTP/2, $origin";
        $h->close;
    }
}
$t->end;

done_testing;
