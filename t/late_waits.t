# Tests for requests that wait for a look-up: what happens meanwhile to them,
# to their clients, to the secrets and to the worker.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(raw request response sign wait_for);
use HTTP2;

BEGIN {
    if (!$ENV{ASANA_HOOK_LATE}) {
        plan(skip_all => 'make test-late has such a store');
    }
}

my $secret = 'a-secret-of-printable-text-0123456789';
my $body   = '{"events":[{"action":"changed"}]}';
my $api    = 'location /api { asana_hook_api hooks write=on; }';
my $t      = Receiver->new(
    workers => 1,
    server  => "$api
        location /before { proxy_pass http://127.0.0.1:APP; post_action /after; }
        location /ssi { ssi on; ssi_types *; root DIR; }
        location /answer {
            asana_hook hooks; asana_hook_heartbeat answer;
            proxy_pass http://127.0.0.1:APP;
        }"
);
$t->{server} =~ s/APP/$t->{app_port}/g;
$t->{server} =~ s/DIR/$t->{dir}/;
$t->app->run;

# see t/lib/late.c

sub store {
    my (%is) = @_;
    for my $name (keys %is) {
        my $path = "$t->{dir}/state/$name";
        next if !$is{$name} && !-e $path;
        if ($is{$name}) {
            open my $fh, '>', $path or die "$path: $!";
            close $fh;
        }
        else {
            unlink $path or die "$path: $!";
        }
    }
    return;
}

# nginx has read whatever was sent before this

sub barrier { return $t->call('GET', '/barrier')->{status} }

sub shake { my ($key) = @_; return raw($key, "X-Hook-Secret: $secret", '') }

sub signed {
    my ($key, $text) = @_;
    return raw($key, 'X-Hook-Signature: ' . sign($secret, $text), $text);
}

sub show {
    my ($key) = @_;
    return "GET /api/hooks?key=localhost$key HTTP/1.1\r\nHost: localhost\r\n\r\n";
}

# a delivery whose body is read now

sub expecting {
    my ($key, $with) = @_;
    my $s = $t->connection;
    request($s, "POST $key HTTP/1.1\r\nHost: localhost\r\n"
            . "Expect: 100-continue\r\nConnection: close\r\n"
            . 'X-Hook-Signature: ' . sign($with, $body) . "\r\n"
            . 'Content-Length: ' . length($body) . "\r\n\r\n");
    return $s;
}

sub continued {
    my ($s) = @_;
    my $text = '';
    while ($text !~ /\r\n\r\n/) {
        sysread $s, $text, 1, length $text or last;
    }
    return $text =~ m{^HTTP/1\.1 100 };
}

# whether the process has a socket that listens

sub listens {
    my ($pid) = @_;
    open my $fh, '<', "/proc/$pid/net/tcp" or return 0;
    my @inodes = map { (split)[9] }
        grep { (split)[3] eq '0A' } <$fh>;
    close $fh;
    my %open = map { (readlink($_) || '') =~ /^socket:\[(\d+)\]/ ? ($1 => 1) : () }
        glob "/proc/$pid/fd/*";
    return scalar grep { $open{$_} } @inodes;
}

# a key with a secret that the zone does not know

my $n = 0;

sub key {
    my ($what) = @_;
    my $key = "/$what/" . ++$n;
    is $t->handshake($key, $secret)->{status}, 200, "$what: a secret";
    return $key;
}

# clients that leave are noticed before the answer is there

my @keys = map { key('leaves') } 1 .. 3;
my ($worker) = $t->workers;
$t->words(3);
store(hold => 1);
my @s = map { request($t->connection, $_) } signed($keys[0], $body),
    shake('/leaves/new'), show($keys[1]), signed($keys[2], $body);
is barrier(), 200, 'four requests wait';
$t->words(1);
close $_ for @s[0 .. 2];
is join(' ', sort $t->words(3)), '- ABORTED ABORTED', 'three clients leave';
store(hold => 0);
is response($s[3])->{status}, 200, 'the fourth gets its answer';
is $t->call('GET', '/api/hooks?key=localhost/leaves/new')->{status}, 404,
    'the handshake that nobody waited for has stored nothing';
$t->words(2);

SKIP: {
    skip 'nginx has no HTTP/2', 1 if ($t->nginx('-V'))[1] !~ /http_v2_module/;
    (my $conf = $t->conf) =~ s/(listen [^;]*);/$1 http2;/;
    my $key = key('http2');
    ok $t->reload($conf), 'HTTP/2';
    ($worker) = $t->workers;
    $t->words;
    store(hold => 1);
    my @post = ([':method', 'POST'], [':path', $key],
        ['x-hook-signature', sign($secret, $body)]);
    my ($one, $two) = map { HTTP2->new($t->connection) } 1 .. 2;
    my @ids = map { $one->headers(0, @post) } 1 .. 3;
    my @lost = map { $two->headers(0, @post) } 1 .. 3;
    $one->data($_, $body, 1) for @ids[0, 1];
    $_->settle for $one, $two;
    $one->reset($ids[1]);
    $two->close;
    is join(' ', $t->words(4)), join(' ', ('ABORTED') x 4),
        'streams that are reset, and lost with their connection';
    store(hold => 0);
    is $one->wait($ids[0])->{status}, 200, 'a body that came meanwhile';
    $one->data($ids[2], $body, 1);
    is $one->wait($ids[2])->{status}, 200, 'and one that comes later';
    $one->close;
    is join(' ', $t->words(2)), 'VERIFIED VERIFIED', 'both verified';
    ok $t->reload($t->conf), 'back';
    ($worker) = $t->workers;
}

# bodies: there already, in pieces, one request behind the other

my $key = key('bodies');
$t->words;
$t->seen;
store(hold => 1);
my $big = 'x' x 200_000;
@s = map { $t->connection } 1 .. 3;
request($s[0], signed($key, $body) . signed($key, 'second') . show($key));
request($s[1], split /(?<=\r\n\r\n)/, signed($key, $big));
my ($head) = signed($key, $body) =~ /^(.*\r\n\r\n)/s;
request($s[2], $head . substr $body, 0, 5);
is barrier(), 200, 'they wait';
$t->seen;
store(hold => 0);
is response($s[1])->{status}, 200, 'a large body';
request($s[2], substr $body, 5);
is response($s[2])->{status}, 200, 'the rest of a body';
is response($s[0])->{status}, 200, 'the first of three in one packet';
my %seen = map { $_->[1] => 1 } $t->seen;
ok $seen{$big} && $seen{$body}, 'they arrive';
close $_ for @s;

# an answer that is made as soon as it is known ends the request at once

my $beat = '{"events":[]}';
is $t->handshake('/answer', $secret)->{status}, 200, 'heartbeat: a secret';
is $t->deliver('/answer', $secret, $beat)->{status}, 200, 'answered here';
is $t->deliver('/answer', "$secret-", $beat)->{status}, 403, 'or refused';

# a revocation while the body comes, and while a look-up is under way

for my $one (0, 1) {
    store(one => $one);
    $key = key("revoked$one");
    my $s = expecting($key, $secret);
    ok continued($s), 'its body is read';
    is $t->call('DELETE', "/api/hooks?key=localhost$key")->{status}, 204,
        'the secret is revoked';
    request($s, $body);
    is response($s)->{status}, 403, 'which counts at once';

    for my $round (1 .. 6) {
        $key = key("race$one");
        store(hold => 1);
        $s = request($t->connection, signed($key, $body));
        barrier();
        is $t->call('DELETE', "/api/hooks?key=localhost$key")->{status}, 204,
            'revoked while it is looked up';
        store(hold => 0);
        response($s);
        is $t->deliver($key, $secret, $body)->{status}, 403,
            'and not remembered';
    }
}

# another host that shares the store, of whose changes the zone hears nothing

my $other = Receiver->new(workers => 1, server => $api)->app;
(my $conf = $other->conf) =~ s{state=\S+}{state=$t->{dir}/state};
$other->run($conf);
store(one => 1);

$key = key('other');
is $t->deliver($key, $secret, $body)->{status}, 200, 'known to the zone';
is $other->call('PUT', "/api/hooks?key=localhost$key",
    ["X-Hook-Secret: $secret-2"])->{status}, 201, 'another host has a second';
is $t->deliver($key, "$secret-2", $body)->{status}, 200, 'it counts at once';

is $other->call('PUT', "/api/hooks?key=localhost$key",
    ["X-Hook-Secret: $secret-3"])->{status}, 201, 'and a third';
my $r = $t->call('PUT', "/api/hooks?key=localhost$key",
    ["X-Hook-Secret: $secret-3"]);
is $r->{status}, 200, 'put here as well: it is held';
my $id = Receiver::secret_id("$secret-3");
like $r->{body}, qr/"$id"/, 'and shown';

for my $round (1 .. 8) {
    $key = "/round/$round";
    store(hold => 1);
    my $s = expecting($key, "$secret-2");
    barrier();
    store(hold => 0);
    is $other->call('PUT', "/api/hooks?key=localhost$key",
        ["X-Hook-Secret: $secret"])->{status}, 201, 'first one secret';
    if (!continued($s)) {
        close $s;
        next;
    }
    is $other->call('PUT', "/api/hooks?key=localhost$key",
        ["X-Hook-Secret: $secret-2"])->{status}, 201, 'then another';
    request($s, $body);
    is response($s)->{status}, 200, 'that has signed a body which came late';
}
store(one => 0);
$other->end;

# "post_action" has no client; an included page is a part of another request

is $t->handshake('/after', $secret)->{status}, 200, 'post_action: a secret';
$t->seen;
store(hold => 1);
my $s = $t->connection;
request($s, signed('/before', $body));
is response($s)->{status}, 200, 'the client has its answer';
barrier();
close $s;
barrier();
store(hold => 0);
my @after;
ok wait_for(
    sub {
        push @after, grep {/^X-Asana-Hook-Status: VERIFIED/m}
            map { $_->[0] } $t->seen;
        return @after;
    },
    5
), 'what comes after it is verified';

$t->write_file('ssi', "<!--# include virtual=\"/api/hooks?key=localhost/after\""
        . ' --><!--# include virtual="/api/hooks?key=localhost/no" -->.');
chmod 0644, "$t->{dir}/ssi";
$r = $t->call('GET', '/ssi');
is $r->{status}, 200, 'a page that includes the API';
like $r->{body}, qr/"localhost\/after".*no secret is held/s, 'in order';

# a worker that goes answers those that wait, and no sooner

for my $signal (qw(HUP QUIT)) {
    @keys = map { key(lc $signal) } 1 .. 3;
    store(hold => 1);
    @s = map { request($t->connection, $_) } signed($keys[0], $body),
        shake("/$signal/new"), show($keys[1]),
        raw($keys[2], 'X-Hook-Signature: ' . 'a' x 64, 'x');
    barrier();
    my ($master, @old) = ($t->master, $t->workers);
    kill $signal, $master;
    ok wait_for(sub { !listens($old[0]) }), "$signal: it listens no more";
    ok !Receiver::gone(@old), 'but waits';
    store(hold => 0);
    is join(' ', map { response($_)->{status} } @s), '200 200 200 403',
        'all are answered';
    ok wait_for(sub { Receiver::gone(@old) }, 10), 'and it is gone';
    if ($signal eq 'QUIT') {
        ok wait_for(sub { Receiver::gone($master) }, 10), 'as is nginx';
        $t->start;
    }
    ok wait_for(sub { $t->workers }), 'there is another one';
    is $t->deliver("/$signal/new", $secret, $body)->{status}, 200,
        'which knows the new secret';
}

# but not for ever; nor does it wait for those whose clients have left

(my $short = $t->conf) =~ s/^events/worker_shutdown_timeout 1s;\nevents/m;
ok $t->reload($short), 'worker_shutdown_timeout';
for my $leaves (0, 1) {
    $key = key('cut');
    store(hold => 1);
    @s = map { request($t->connection, signed($key, $body)) } 1 .. 3;
    barrier();
    my @old = $t->workers;
    kill 'HUP', $t->master;
    close $_ for $leaves ? splice @s : ();
    ok wait_for(sub { Receiver::gone(@old) }, 5), 'the worker is gone';
    is scalar(grep { response($_)->{status} } @s), 0, 'nobody is answered';
    store(hold => 0);
    is $t->deliver($key, $secret, $body)->{status}, 200, 'the next one works';
}

# a store that cannot be opened at first

ok $t->reload($t->conf), 'a worker that waits';
$key = key('closed');
chmod 0, "$t->{dir}/state/data.mdb" or die $!;
$t->stop;
$t->start;
$t->{expect} = qr/data\.mdb/;
is $t->deliver($key, $secret, $body)->{status}, 503, 'a store that is closed';
chmod 0600, "$t->{dir}/state/data.mdb" or die $!;
ok wait_for(sub { $t->deliver($key, $secret, $body)->{status} == 200 }, 10),
    'is opened by look-ups alone';

$t->secrecy($secret);
$t->end;

done_testing;
