# Tests for asana_hook_enroll gateway: a handshake is accepted only while a
# create call is in flight.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use HTTP2;
use Receiver qw(request response wait_for);
use Upstream;

my $n = 0;
sub secret { return sprintf 'secret-%04d-%s', ++$n, 'e' x 40 }

my ($t, $up);

sub start {
    my (%opt) = @_;
    $t  = Receiver->new(location => 'asana_hook_enroll gateway;', %opt);
    $up = Upstream->new($t);
    my $pass = "asana_hook_gateway hooks; "
        . "proxy_pass http://127.0.0.1:$up->{port};";
    $t->{server} = "location = /asana/webhooks { $pass } "
        . "location = /off { $pass proxy_buffering off; } "
        . "location = /ignore { $pass proxy_ignore_client_abort on; } "
        . "location = /page { $pass error_page 502 = /moved; } "
        . 'location = /moved { return 200 moved; } '
        . 'location /api { asana_hook_api hooks write=on; }';
    return $t->app;
}

# what the store has written, and what it holds

sub store {
    my ($txn) = qx(mdb_stat -e $t->{dir}/state) =~ /transaction ID: (\d+)/;
    return $txn;
}

# commits are one after the other: that of a first delivery is over then

sub settle {
    my $uri = '/api/hooks?key=/settle/' . ++$n;
    return is $t->call('PUT', $uri, ['X-Hook-Secret: ' . secret()])->{status},
        201, 'settled';
}

sub door {
    my $status = $t->handshake('/door/' . ++$n, secret())->{status};
    return { 200 => 'open', 403 => 'shut' }->{$status} || $status;
}

# a create call whose answer waits for its gate

sub stalled {
    my ($uri, @headers) = @_;
    my $secret = secret();
    my $plan   = "stall$n";
    $up->plan($plan, [gate => $plan], [send => Upstream::created($secret)]);
    return ($up->call($uri || '/asana/webhooks', $plan, @headers), $plan,
        $secret);
}

start()->run;
is door(), 'shut', 'no create call: refused';
is_deeply [$t->words], ['REFUSED'], 'REFUSED';
my $before = store();
ok defined $before, 'the store says how often it was written';
door() for 1 .. 20;
is store(), $before, 'and nothing is written';
like $t->slurp('error.log'), qr/no create call is in flight/, 'the log says';
for my $method (qw(GET DELETE PUT)) {
    my $plan = $up->plan("m$method", [gate => "m$method"],
        [send => Upstream::by_length(200, '{"data":{}}')]);
    my $s = $t->connection;
    request($s, "$method /asana/webhooks HTTP/1.1\r\nHost: localhost\r\n"
            . "X-Plan: $plan\r\n\r\n");
    $up->reached($plan);
    is door(), 'shut', "$method is no create call";
    $up->open($plan);
    is response($s)->{status}, 200, 'and passes';
}

# the whole way: create, handshake while Asana waits, answer

for my $headers ([], ['Connection: keep-alive']) {
    my ($s, $gate, $secret) = stalled(undef, @{$headers});
    is $t->handshake("/h$n", $secret)->{status}, 200, 'in flight: accepted';
    is $t->deliver("/h$n", $secret, '{"events":[1]}')->{status}, 503,
        'pending';
    is $t->deliver("/h$n", $secret, '{"events":[]}')->{status}, 200,
        'the first heartbeat is answered';
    my $uri = "/h$n";
    $up->open($gate);
    is response($s)->{status}, 201, 'the answer';
    is door(), 'shut', 'shut when it is there: ' . ("@{$headers}" || 'close');
    is $t->deliver($uri, $secret, '{"events":[1]}')->{status}, 200, 'active';
    settle();
    $before = store();
    is $t->handshake($uri, $secret)->{status}, 200, 'what is held is echoed';
    is store(), $before, 'without a commit';
    is $t->handshake("$uri/other", $secret)->{status}, 403,
        'under its key alone';
}

# a pending one is echoed as well; another stays shut out

my ($c, $gate, $secret) = stalled();
$t->handshake('/held', $secret);
close $c;
ok wait_for(sub { door() eq 'shut' }), 'the client gives up: shut';
is $t->handshake('/held', $secret)->{status}, 200,
    'the pending one is echoed outside too';
is $t->deliver('/held', $secret, '{"events":[1]}')->{status}, 503,
    'and stays pending';

# whatever ends a create call shuts the door

my %ends = (
    'an error of Asana' => [[send => Upstream::by_length(400, '{}')]],
    'a reset'           => ['reset'],
    'no answer'         => ['close'],
    'half an answer'    => [[send => substr Upstream::created($secret), 0, -9],
        'close'],
    'a broken answer'   => [[send => "nonsense\r\n\r\n"], 'close'],
);
for my $end (sort keys %ends) {
    (my $plan = $end) =~ s/\W/_/g;
    $up->plan($plan, [gate => $plan], @{ $ends{$end} });
    my $s = $up->call('/asana/webhooks', $plan);
    is door(), 'open', "$end: open before it";
    $up->open($plan);
    response($s);
    is door(), 'shut', 'and shut after it';
}

# a client that goes, where its create call goes on

($c, $gate) = stalled('/ignore');
close $c;
is door(), 'open', 'proxy_ignore_client_abort: still in flight';
$up->open($gate);
ok wait_for(sub { door() eq 'shut' }), 'until Asana answers';

# an answer that has begun means that Asana got its handshake

my $plan = $up->plan('half', [send => "HTTP/1.1 200 OK\r\n\r\nhalf"],
    [gate => 'half'], 'close');
$c = $up->call('/off', $plan);
response($c, 10, 1);
is door(), 'shut', 'an answer has begun: shut';
$up->open('half');

# an error page moves it on: what comes from there is an answer too

response($up->call('/page', $up->plan('page', 'close')));
is door(), 'shut', 'an error page: shut';

# two in flight, of which one ends

($c, $gate) = stalled();
my ($c2, $gate2) = stalled();
$up->open($gate);
is response($c)->{status}, 201, 'one of two ends';
is door(), 'open', 'the other one counts';
$up->open($gate2);
response($c2);
is door(), 'shut', 'both are over';

# clients that come and go leave no count behind

for my $round (1 .. 30) {
    my $plan = $up->plan("go$round", [gate => 'never']);
    my $s = $t->connection;
    request($s, Upstream::create('/asana/webhooks', $plan));
    $up->reached($plan) if $round % 3;
    close $s;
}
ok wait_for(sub { door() eq 'shut' }), 'thirty clients that went: shut';

$t->secrecy($secret);
$t->end;

# other policies beside it do not look at create calls; other zones' do not
# count

start(http => 'asana_hook_zone $uri zone=other:1m state=STATE;');
$t->{http} =~ s{STATE}{$t->{dir}/other};
$t->{server} .= ' location /other { asana_hook other; '
    . 'asana_hook_enroll gateway; proxy_pass http://127.0.0.1:'
    . "$t->{app_port}; }";
$t->run;
($c, $gate) = stalled();
is door(), 'open', 'in flight';
is $t->handshake('/other', secret())->{status}, 403,
    'a create call of one zone opens no other';
$up->open($gate);
response($c);
$t->end;

# two workers: what one has in flight counts in both

start(workers => 2)->run;
($c, $gate, $secret) = stalled();
is join(' ', map { door() } 1 .. 20), join(' ', ('open') x 20),
    'two workers: in flight for both';
$up->open($gate);
response($c);
is join(' ', map { door() } 1 .. 20), join(' ', ('shut') x 20),
    'and over for both';

# a reload: the worker of before holds a create call

($c, $gate, $secret) = stalled();
my @old = $t->workers;
kill 'HUP', $t->master;
ok wait_for(sub { grep { my $pid = $_; !grep { $_ == $pid } @old }
        $t->workers }), 'a reload';
is $t->handshake('/reload', $secret)->{status}, 200,
    'what an old worker has in flight counts';
$up->open($gate);
is response($c)->{status}, 201, 'its answer comes';
ok wait_for(sub { Receiver::gone(@old) }), 'it ends';
is join(' ', map { door() } 1 .. 10), join(' ', ('shut') x 10), 'shut';
is $t->deliver('/reload', $secret, 'x')->{status}, 200, 'active';
$t->end;

# one of two workers is killed: what the other has in flight counts; what the
# dead one had is too old in a minute (t/time.t)

start(workers => 2, expect => qr/signal 9/)->run;
my @calls = map { [stalled()] } 1 .. 8;
my ($victim) = $t->workers;
kill 'KILL', $victim;
ok wait_for(sub { Receiver::gone($victim) && $t->workers == 2 }), 'SIGKILL';
is door(), 'open', 'eight in flight';
my $left = 0;
for my $call (@calls) {
    my ($s, $name) = @{$call};
    $up->open($name);
    $left++ if response($s)->{status} == 201;
}
note "$left of 8 went on";
$t->end;

# the same, and the zone has another size: what is in flight moves with it

start(http => 'asana_hook_zone $uri zone=other:1m state=STATE;');
$t->{http} =~ s{STATE}{$t->{dir}/other};
$t->{server} .= ' location /other { asana_hook_gateway other; '
    . "proxy_pass http://127.0.0.1:$t->{app_port}; }";
$t->run;
($c, $gate, $secret) = stalled();
@old = $t->workers;
(my $sized = $t->conf) =~ s/zone=(\w+):1m/zone=$1:2m/g;
$t->write_file('nginx.conf', $sized);
kill 'HUP', $t->master;
ok wait_for(sub { grep { my $pid = $_; !grep { $_ == $pid } @old }
        $t->workers }), 'a reload with a larger zone';
ok wait_for(sub { $t->call('GET', '/api/')->{body} =~ /"size":2097152/ }),
    'which is there';
is door(), 'open', 'what an old worker has in flight counts';
$up->open($gate);
is response($c)->{status}, 201, 'its answer comes';
ok wait_for(sub { Receiver::gone(@old) }), 'it ends';
$t->end;

# another user, who may not even send a signal to the workers of before

SKIP: {
    skip 'only root changes users', 6 if $> != 0;
    start()->run;
    ($c, $gate, $secret) = stalled();
    @old = $t->workers;
    my $own = getpwnam 'nobody';
    (my $other = $t->conf) =~ s/user www-data;/user nobody nogroup;/;
    $t->write_file('nginx.conf', $other);
    chown $own, -1, glob "$t->{dir}/state/*";
    chown $own, -1, "$t->{dir}/state";
    kill 'HUP', $t->master;
    ok wait_for(sub { grep { my $pid = $_; !grep { $_ == $pid } @old }
            $t->workers }), 'a reload with another user';
    my ($new) = grep { my $pid = $_; !grep { $_ == $pid } @old } $t->workers;
    is +(stat "/proc/$new")[4], $own, 'who has the new worker';
    ok wait_for(sub { door() eq 'open' }, 5),
        'what an old worker has in flight counts';
    $up->open($gate);
    is response($c)->{status}, 201, 'its answer comes';
    ok wait_for(sub { Receiver::gone(@old) }), 'it ends';
    is door(), 'shut', 'shut';
    $t->end;
}

# HTTP/2

SKIP: {
    start();
    skip 'nginx has no HTTP/2', 4
        if ($t->nginx('-V'))[1] !~ /http_v2_module/;
    (my $conf = $t->conf) =~ s/(listen 127.0.0.1:\d+);/$1 http2;/;
    $t->run($conf);
    my $h = HTTP2->new($t->connection);
    my $try = sub {
        my $id = $h->headers(1, [':method', 'POST'], [':path', '/d' . ++$n],
            ['x-hook-secret', secret()]);
        return $h->wait($id)->{status};
    };
    is $try->(), 403, 'HTTP/2: shut';
    my $plan = $up->plan('h2', [gate => 'h2']);
    my $id = $h->headers(1, [':method', 'POST'],
        [':path', '/asana/webhooks'], ['x-plan', $plan]);
    $up->reached($plan);
    is $try->(), 200, 'in flight';
    $h->reset($id);
    $h->settle;
    ok wait_for(sub { $try->() == 403 }), 'the stream is reset: shut';
    $h->close;
    $t->end;
}

done_testing;
