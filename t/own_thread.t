# Tests for the thread that writes to the store: when it starts and ends, beside
# nginx's own threads, and with a change under way when its worker goes.

use strict;
use warnings;

use lib 't/lib';

use IO::Select;
use Test::More;
use Time::HiRes qw(time);

use Receiver qw(raw request response wait_for);
use Shim;

Shim->usable;

my $secret = 'a-secret-of-printable-text-0123456789';
my $n      = 0;

sub threads_of {
    my ($pid) = @_;
    my @tasks = glob "/proc/$pid/task/*";
    return scalar @tasks;
}

# a handshake whose commit waits for the disk

sub under_way {
    my ($t, $shim, $key) = @_;
    my $syncs = $shim->syncs;
    my $c     = request($t->connection,
        raw($key, "X-Hook-Secret: $secret$key", ''));
    ok wait_for(sub { $shim->syncs > $syncs }), 'a change is under way';
    return $c;
}

sub enrolled {
    my ($t, $what) = @_;
    my $key = '/key/' . ++$n;
    is $t->handshake($key, "$secret$key")->{status}, 200, "$what: a handshake";
    is $t->deliver($key, "$secret$key", 'x')->{status}, 200, 'verifies';
    return $key;
}

# it starts with a change, and ends a second after the last one

my $t    = Receiver->new;
my $shim = Shim->new($t);
$t->app->run;
my ($worker) = $t->workers;
is threads_of($worker), 1, 'no change, no thread';
for my $time (1 .. 2) {
    enrolled($t, "time $time");
    is threads_of($worker), 2, 'a thread of its own';
    ok wait_for(sub { threads_of($worker) == 1 }), 'which ends';
}
$t->end;

# nginx's own threads read files while the writer is stuck

SKIP: {
    skip 'nginx has no threads', 25 if !Receiver::threads();
    $t = Receiver->new(server => 'location /file { aio threads; root DIR; }');
    $t->{server} =~ s/DIR/$t->{dir}/;
    $shim = Shim->new($t);
    $t->app->run;
    $t->write_file('file', 'x' x 300_000);
    chmod 0644, "$t->{dir}/file";
    is length $t->call('GET', '/file')->{body}, 300_000, 'aio threads';
    $shim->set(stuck => 1);
    my $c = under_way($t, $shim, '/stuck');
    for (1 .. 20) {
        is length $t->call('GET', '/file')->{body}, 300_000, 'a file';
    }
    ok !IO::Select->new($c)->can_read(0), 'the handshake waits for the disk';
    $shim->set;
    is response($c)->{status}, 200, 'and is answered';
    $t->end;
}

# a worker that goes with a change under way

$t    = Receiver->new(expect => qr/signal 9/);
$shim = Shim->new($t);
$t->app->run;
my $key = enrolled($t, 'before');

$shim->set(delay_ms => 700);
my $c   = under_way($t, $shim, '/hup');
my @old = $t->workers;
kill 'HUP', $t->master;
is response($c)->{status}, 200, 'HUP: it is answered';
ok wait_for(sub { Receiver::gone(@old) }), 'then the worker ends';

$c = under_way($t, $shim, '/quit');
my $master = $t->master;
kill 'QUIT', $master;
is response($c)->{status}, 200, 'QUIT: it is answered';
ok wait_for(sub { Receiver::gone($master) }), 'then nginx ends';
$shim->set;
$t->start;
is $t->deliver($_, "$secret$_", 'x')->{status}, 200, "$_ verifies"
    for $key, '/hup', '/quit';

$shim->set(delay_ms => 700);
$c = under_way($t, $shim, '/kill');
@old = $t->workers;
kill 'KILL', @old;
ok !response($c)->{status}, 'SIGKILL: nothing is acknowledged';
$shim->set;
ok wait_for(sub { $t->workers && Receiver::gone(@old) }), 'another worker';
enrolled($t, 'after it');
is $t->deliver($_, "$secret$_", 'x')->{status}, 200, "$_ verifies"
    for $key, '/quit';

# what was acknowledged before is there, whenever the worker is killed

my %acknowledged;
for my $round (1 .. 6) {
    $shim->set(delay_ms => 20);
    my ($victim) = $t->workers;
    my @keys = map {"/round/$round/$_"} 1 .. 24;
    my @s    = map {
        request($t->connection, raw($_, "X-Hook-Secret: $secret$_", ''))
    } @keys;
    my $r = response($s[$round]);
    kill 'KILL', $victim;
    my @status = map { response($_)->{status} } @s;
    $status[$round] = $r->{status};
    $acknowledged{$_} = 1 for @keys[grep { $status[$_] == 200 } 0 .. $#keys];
    $shim->set;
    ok wait_for(sub { Receiver::gone($victim) && $t->workers }),
        "round $round: another worker";
    is $t->handshake("/next/$round", "$secret/next")->{status}, 200,
        'writes at once';
}
cmp_ok scalar(keys %acknowledged), '>=', 6, 'handshakes are acknowledged';
is join(' ', grep { $t->deliver($_, "$secret$_", 'x')->{status} != 200 }
        sort keys %acknowledged), '', 'none of them is lost';

# an end that does not wait for a disk that is stuck

(my $short = $t->conf) =~ s/^events/worker_shutdown_timeout 1s;\nevents/m;
ok $t->reload($short), 'worker_shutdown_timeout';
for my $signal (qw(HUP QUIT)) {
    $shim->set(stuck => 1);
    $c   = under_way($t, $shim, "/short/$signal");
    @old = ($t->workers, $signal eq 'QUIT' ? $t->master : ());
    my $start = time;
    kill $signal, $t->master;
    ok wait_for(sub { Receiver::gone(@old) }), "$signal: the worker ends";
    cmp_ok time - $start, '>', 0.9, 'after the timeout';
    ok !response($c)->{status}, 'nothing is acknowledged';
    $shim->set;
}
$t->start;
enrolled($t, 'after them');
$t->write_file('nginx.conf', $t->conf);
ok $t->reload, 'back';

$shim->set(stuck => 1);
$c      = under_way($t, $shim, '/term');
$master = $t->master;
kill 'TERM', $master;
ok wait_for(sub { Receiver::gone($master) }), 'TERM: nginx ends';
$shim->set;
$t->start;
is $t->deliver($_, "$secret$_", 'x')->{status}, 200, "$_ verifies"
    for $key, '/quit';
$t->end;

done_testing;
