# Tests for a slow disk: who waits for it and who does not.

use strict;
use warnings;

use lib 't/lib';

use IO::Select;
use Socket qw(SOL_SOCKET SO_LINGER);
use Test::More;
use Time::HiRes qw(time);

use Receiver qw(request response sign wait_for);
use Stored qw(records);
use Shim;

Shim::usable();
plan skip_all => 'without threads all wait for the disk'
    unless Receiver::threads();

my $secret = 'a-secret-of-printable-text-0123456789';
my $t      = Receiver->new->app;
my $shim   = Shim->new($t);
$t->run;
my $worker = ($t->workers)[0];

sub txnid {
    my ($id) = qx(mdb_stat -e $t->{dir}/state)
        =~ /Last transaction ID: (\d+)/;
    return $id;
}

# handshakes for all keys, each on its own connection, not yet answered

sub send_all {
    my @keys = @_;
    return map {
        request($t->connection, "POST $_ HTTP/1.1\r\nHost: localhost\r\n"
                . "X-Hook-Secret: $secret$_\r\nContent-Length: 0\r\n\r\n")
    } @keys;
}

# nginx has read whatever was sent before this

sub barrier { return $t->call('GET', '/barrier')->{status} }

sub echoed {
    my ($r, $key) = @_;
    return $r->{status} == 200
        && $r->{head} =~ /^X-Hook-Secret: \Q$secret$key\E\r$/m;
}

sub count_echoes {
    my ($connections, @keys) = @_;
    my $n = 0;
    for my $i (0 .. $#keys) {
        echoed(response($connections->[$i], 20), $keys[$i]) and $n++;
    }
    return $n;
}

sub count_verified {
    my @keys = @_;
    return scalar
        grep { $t->deliver($_, "$secret$_", 'x')->{status} == 200 } @keys;
}

# commits are one after the other: those of the deliveries are over then

my $settled = 0;

sub settle {
    my $key = '/settle/' . $settled++;
    return is $t->handshake($key, "$secret$key")->{status}, 200, 'settled';
}

is $t->handshake('/live', "$secret/live")->{status}, 200, 'a first secret';
is count_verified('/live'), 1, 'verifies';
settle();
is $shim->syncs, 2 * txnid(), 'each commit syncs twice';

# all others go on

for my $round (1 .. 4) {
    my @keys  = map {"/slow/$round/$_"} 1 .. 4;
    my $syncs = $shim->syncs;
    $shim->set(stuck => 1);
    my @c = send_all(@keys);
    ok wait_for(sub { $shim->syncs > $syncs }), 'the disk is stuck';
    is scalar(grep { $t->call('GET', '/any')->{status} != 200 } 1 .. 50), 0,
        'other requests are served';
    is count_verified(('/live') x 50), 50, 'so are deliveries';
    ok !IO::Select->new(@c)->can_read(0), 'the handshakes wait';
    $shim->set;
    is count_echoes(\@c, @keys), 4, 'and are echoed then';
}
$shim->set(delay_ms => 300);

# one sync is for many

my @keys   = map {"/many/$_"} 1 .. 64;
my $before = txnid();
my $syncs  = $shim->syncs;
my $start  = time;
my @c      = send_all(@keys);
is count_echoes(\@c, @keys), 64, '64 handshakes at once';
cmp_ok time - $start, '>=', 0.6, 'have waited for the disk';
cmp_ok txnid() - $before, '<=', 3, 'and shared three commits at most';
cmp_ok txnid() - $before, '>=', 1, 'at least one';
is $shim->syncs - $syncs, 2 * (txnid() - $before), 'each synced twice';

$shim->set;
is count_verified(@keys), 64, 'all of them verify';
settle();

# clients that go away, one in the commit under way, one before the next

$shim->set(delay_ms => 300);

$syncs = $shim->syncs;
my ($first) = send_all('/gone/1');
ok wait_for(sub { $shim->syncs > $syncs }), 'a commit is under way';
my ($second, $third) = send_all('/gone/2', '/gone/3');
is barrier(), 200, 'the next ones wait';
setsockopt $second, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
close $_ for $first, $second;
is barrier(), 200, 'two clients go away';
ok echoed(response($third), '/gone/3'), 'the third one is answered';

$shim->set;
is count_verified(map {"/gone/$_"} 1 .. 3), 3, 'all three are stored';
is join(' ', $t->workers), $worker, 'the worker has lived through it';
settle();

# a reload

$shim->set(delay_ms => 300);

@keys  = map {"/reload/$_"} 1 .. 16;
$syncs = $shim->syncs;
@c     = send_all(@keys);
barrier();
ok wait_for(sub { $shim->syncs > $syncs }), 'a commit is under way';
kill 'HUP', $t->master;
ok wait_for(sub { ($t->workers)[-1] != $worker }), 'reload';
is count_echoes(\@c, @keys), 16, 'loses no handshake';
ok wait_for(sub { Receiver::gone($worker) }), 'and ends the old worker';

$shim->set;
is count_verified(@keys), 16, 'nor a secret';
settle();

# the same handshake twice at once, while others hold up the disk

$shim->set(delay_ms => 300);

$syncs = $shim->syncs;
my ($busy) = send_all('/busy');
ok wait_for(sub { $shim->syncs > $syncs }), 'a commit is under way';
@c = send_all('/twice', '/twice');
is barrier(), 200, 'the same handshake twice';
is count_echoes([$busy, @c], '/busy', '/twice', '/twice'), 3, 'both echoed';
$shim->set;
is count_verified('/busy', '/twice'), 2, 'and stored';
is scalar(@{ records("$t->{dir}/state")->{'localhost/twice'} }), 1, 'once';
settle();

# requests that end with their worker, in the middle of a commit

(my $conf = $t->conf) =~ s/^events/worker_shutdown_timeout 1s;\nevents/m;
my $gateway = 'location /api { asana_hook_api hooks write=on; }
    location = /create {
        asana_hook_gateway hooks; proxy_pass http://127.0.0.1:APP;
    }';
$gateway =~ s/APP/$t->{app_port}/;
$conf =~ s/(location \/ \{)/$gateway $1/;
ok $t->reload($conf), 'a worker that does not wait for clients';
my @old = $t->workers;
is $t->call('PUT', '/api/hooks?key=localhost/cut/2',
    ["X-Hook-Secret: $secret/cut/2"])->{status}, 201, 'a secret by PUT';
$t->answer(201, '', qq({"X-Hook-Secret":"$secret/cut/2"}));
$t->seen;
$shim->set(delay_ms => 2000);

$syncs = $shim->syncs;
@c = send_all('/cut/1');
ok wait_for(sub { $shim->syncs > $syncs }), 'a commit is under way';
push @c, request($t->connection, "PUT /api/hooks?key=localhost/cut/3 HTTP/1.1"
        . "\r\nHost: localhost\r\nX-Hook-Secret: $secret/cut/3\r\n\r\n");
push @c, request($t->connection, "POST /create HTTP/1.1\r\nHost: localhost\r\n"
        . "Content-Length: 1\r\n\r\nx");
ok wait_for(sub { scalar(my @seen = $t->seen) }), 'a create call as well';
is barrier(), 201, 'all are there';
kill 'HUP', $t->master;
is scalar(grep { !response($_)->{status} } @c), 3, 'the clients are cut off';
ok wait_for(sub { Receiver::gone(@old) }, 4), 'and the worker goes with them';
$shim->set;
is count_verified('/cut/2'), 1, 'what was acknowledged verifies';
$t->answer(200, '', 'app');
ok $t->reload($t->conf), 'back';
settle();

# an end

$shim->set(delay_ms => 300);

@keys  = map {"/quit/$_"} 1 .. 16;
$syncs = $shim->syncs;
@c     = send_all(@keys);
barrier();
ok wait_for(sub { $shim->syncs > $syncs }), 'a commit is under way';
my @pids = ($t->master, $t->workers);
kill 'QUIT', $pids[0];
is count_echoes(\@c, @keys), 16, 'QUIT answers all that wait';
ok wait_for(sub { Receiver::gone(@pids) }), 'and ends';

$shim->set;
$t->start;
is count_verified(@keys), 16, 'they are stored';

$t->end;
done_testing;
