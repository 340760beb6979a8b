# Tests for asana_hook_api beside deliveries: two workers, HTTP/2, clients
# that go away.

use strict;
use warnings;

use lib 't/lib';

use JSON::PP;
use POSIX ();
use Socket qw(SOL_SOCKET SO_LINGER);
use Test::More;

use Receiver qw(raw request response secret_id sign wait_for);
use HTTP2;

my $secret = 'a-secret-of-printable-text-0123456789';
my $t      = Receiver->new(
    workers => 2,
    server  => 'location /api { asana_hook_api hooks write=on; }
        add_header X-Pid $pid always;'
);
$t->{http} = "server { listen 127.0.0.1:$t->{app_port}; "
    . 'location / { return 200 app; } }';
my $conf = $t->conf;
$conf =~ s/(listen 127.0.0.1:$t->{port});/$1 reuseport;/;
$t->run($conf);

sub api {
    my ($method, $uri, @headers) = @_;
    return $t->call($method, "/api$uri", [@headers]);
}

sub put {
    my ($path, $s) = @_;
    return api('PUT', "/hooks?key=localhost$path", "X-Hook-Secret: $s");
}

sub delivery {
    my ($path, $s, $body) = @_;
    return raw($path, 'X-Hook-Signature: ' . sign($s, $body), $body);
}

# connections to both workers

my (%pid, @s);
wait_for(sub {
    my $s = $t->connection;
    push @s, $s;
    request($s, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    my ($pid) = response($s)->{head} =~ /^X-Pid: (\d+)/m;
    $pid{ $pid || 0 }++;
    return @s >= 16 && keys %pid == 2;
});
is scalar(keys %pid), 2, 'connections to both workers';

# before 201 and 204 are sent, they hold in each of them

sub statuses {
    my @requests = @_;
    request($s[$_], $requests[$_ % @requests]) for 0 .. $#s;
    my %seen = map { response($_)->{status} => 1 } @s;
    return join ' ', sort keys %seen;
}

my (%put, %delete);
for my $n (1 .. 30) {
    my $request = delivery('/a', "$secret$n", 'x');
    put('/a', "$secret$n");
    $put{ statuses($request) }++;
    api('DELETE', '/hooks?key=localhost/a'
            . ($n % 2 ? '&id=' . secret_id("$secret$n") : ''));
    $delete{ statuses($request) }++;
}
is_deeply \%put, { 200 => 30 }, 'PUT: both workers verify at once'
    or diag explain \%put;
is_deeply \%delete, { 403 => 30 }, 'DELETE: neither worker does any more';

# the same beside a secret of the key that stays

put('/b', $secret);
my $stays = delivery('/b', $secret, 'x');
my %beside;
for my $n (1 .. 10) {
    my $request = delivery('/b', "$secret$n", 'x');
    $beside{ 'before ' . statuses($stays) }++;
    put('/b', "$secret$n");
    $beside{ 'put ' . statuses($request) }++;
    $beside{ 'beside ' . statuses($stays) }++;
    api('DELETE', '/hooks?key=localhost/b&id=' . secret_id("$secret$n"));
    $beside{ 'deleted ' . statuses($request) }++;
}
is_deeply \%beside, { 'before 200' => 10, 'put 200' => 10,
    'beside 200' => 10, 'deleted 403' => 10 }, 'beside one that stays';

# a delivery whose body is on its way when its secret is revoked

put('/a', $secret);
my $request = delivery('/a', $secret, 'body');
request($_, substr $request, 0, -2) for @s;
$t->call('GET', '/');
is api('DELETE', '/hooks?key=localhost/a')->{status}, 204, 'revoked';
request($_, 'dy') for @s;
is join(' ', map { response($_)->{status} } @s), join(' ', (403) x @s),
    'while the body came';

# all at once

put('/stays', $secret);
my @kids;
for my $kid (1 .. 6) {
    pipe my $from, my $to or die $!;
    my $pid = fork;
    die $! unless defined $pid;
    if (!$pid) {
        my %got;
        for my $n (1 .. 150) {
            my $path = '/k' . ($n + $kid) % 4;
            $got{ 'PUT ' . put($path, $secret)->{status} }++
                if $kid <= 2;
            $got{ 'DELETE '
                    . api('DELETE', "/hooks?key=localhost$path")->{status} }++
                if $kid == 3 || $kid == 4;
            $got{ 'LIST ' . api('GET', '/hooks')->{status} }++ if $kid == 4;
            $got{ 'POST ' . $t->deliver($path, $secret, 'x')->{status} }++
                if $kid >= 5;
            $got{ 'STAYS ' . $t->deliver('/stays', $secret, 'x')->{status} }++
                if $kid >= 5;
        }
        syswrite $to, join "\n", %got;
        POSIX::_exit(0);
    }
    close $to;
    push @kids, [$pid, $from];
}
my %all;
for my $kid (@kids) {
    my ($pid, $from) = @$kid;
    my %got = split /\n/, join '', <$from>;
    $all{$_} += $got{$_} for keys %got;
    waitpid $pid, 0;
}
my %want = map { $_ => 1 } 'PUT 200', 'PUT 201', 'DELETE 204', 'DELETE 404',
    'LIST 200', 'POST 200', 'POST 403', 'STAYS 200';
is_deeply [grep { !$want{$_} } sort keys %all], [],
    'PUT, DELETE and deliveries: no other answers';
is $all{'STAYS 200'}, 300, 'a secret that none of them touches verifies';
ok $all{"PUT $_"}, "some PUT got $_" for 200, 201;
ok $all{"DELETE $_"}, "some DELETE got $_" for 204, 404;

# which worker is asked makes no difference, but who asks is the one who counts

sub bodies {
    my ($uri) = @_;
    request($_, "GET /api$uri HTTP/1.1\r\nHost: x\r\n\r\n") for @s;
    my %seen = map {
        response($_)->{body} =~ s/"health":(?:null|\{.*?\}),//r => 1
    } @s;
    return keys %seen;
}
put('/both', $secret);
is scalar(my @one = bodies('/hooks')), 1, 'both say the same of all keys';
is scalar(@one = bodies('/hooks?key=localhost/both')), 1, 'and of one';
is scalar(@one = bodies('/')), 1, 'and of the zone';

# a client that goes away: what it asked for is done all the same

for my $n (1 .. 40) {
    my $s = $t->connection;
    setsockopt $s, SOL_SOCKET, SO_LINGER, pack 'll', 1, 0 if $n % 2;
    request($s, "PUT /api/hooks?key=localhost/gone/$n HTTP/1.1\r\n"
            . "Host: x\r\nX-Hook-Secret: $secret\r\n\r\n");
    close $s;
}
ok wait_for(sub {
    my @hooks = grep { $_->{key} =~ /gone/ }
        @{ decode_json(api('GET', '/hooks?limit=1000')->{body})->{hooks} };
    return @hooks >= 20;
}), 'a client that does not wait for the answer of PUT';
ok scalar(bodies('/hooks?limit=1000')), 'the workers live';
$t->end;

# HTTP/2

$t = Receiver->new(
    server => 'location /api { asana_hook_api hooks write=on; }')->app;
if (($t->nginx('-V'))[1] =~ /http_v2_module/) {
    $conf = $t->conf;
    $conf =~ s/(listen 127.0.0.1:\d+);/$1 http2;/;
    $t->run($conf);
    my $h = HTTP2->new($t->connection);
    my $ask = sub {
        my ($method, $uri, @headers) = @_;
        return $h->headers(1, [':method', $method], [':path', "/api$uri"],
            @headers);
    };
    my $one = '/hooks?key=localhost/a';
    my @with = ['x-hook-secret', $secret];
    my $r = $h->wait($ask->('PUT', $one, @with));
    is $r->{status}, 201, 'HTTP/2: PUT';
    is decode_json($r->{body})->{key}, 'localhost/a', 'and its answer';
    is $h->wait($ask->('PUT', $one, @with))->{status}, 200, 'again';
    is $h->wait($ask->('HEAD', $one))->{status}, 200, 'HEAD';
    is $h->wait($ask->('OPTIONS', $one))->{status}, 204, 'OPTIONS';
    is $h->wait($ask->('POST', $one))->{status}, 405, 'POST';
    is $h->wait($ask->('DELETE', $one))->{status}, 204, 'DELETE';
    is $h->wait($ask->('DELETE', $one))->{status}, 404, 'and again';

    for my $length (0, 1) {
        my $id = $h->headers(0, [':method', 'PUT'], [':path', "/api$one"],
            @with, $length ? ['content-length', 1] : ());
        $h->data($id, 'x', 1);
        is $h->wait($id)->{status}, 400, "a body, length $length";
    }
    is $h->wait($ask->('GET', $one))->{status}, 404, 'stores nothing';

    # many at once, then streams and connections that are gone
    my @ids = map { $ask->('PUT', "$one/$_", @with) } 1 .. 50;
    is scalar(grep { $h->wait($_)->{status} == 201 } @ids), 50, '50 at once';
    $h->reset($_) for map { $ask->('PUT', "$one/reset/$_", @with) } 1 .. 20;
    is $h->wait($ask->('GET', '/'))->{status}, 200, 'streams that are reset';
    $ask->('PUT', "$one/gone/$_", @with) for 1 .. 20;
    $h->close;
    $h = HTTP2->new($t->connection);
    is $h->wait($ask->('GET', '/'))->{status}, 200, 'a connection that goes';
    is scalar(@{ decode_json($h->wait($ask->('GET', '/hooks'))->{body})
            ->{hooks} }) >= 50, 1, 'the worker lives';
}
$t->end;

done_testing;
