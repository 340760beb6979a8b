# Tests for a store that fails, or is not what it was.

use strict;
use warnings;

use lib 't/lib';

use Errno qw(EIO ENOSPC EROFS);
use File::Copy qw(copy);
use File::Path qw(remove_tree);
use Test::More;

use Receiver qw(wait_for);
use Stored qw(load record records value);
use Shim;

Shim::usable();

my $secret = 'a-secret-of-printable-text-0123456789';
my $t      = Receiver->new(
    expect   => qr/signal 9/,
    location => 'asana_hook_heartbeat answer;',
    server   => 'location /api { asana_hook_api hooks write=on; }
        location = /create {
            asana_hook_gateway hooks; proxy_pass http://127.0.0.1:APP;
        }'
)->app;
$t->{server} =~ s/APP/$t->{app_port}/;
my $shim   = Shim->new($t);
my $state  = "$t->{dir}/state";
my $n      = 0;

$t->run;
is $t->handshake('/known', "$secret/known")->{status}, 200, 'a first secret';
is $t->deliver('/known', "$secret/known", 'x')->{status}, 200, 'verifies';

# device, inode and owner of all that the store is made of

sub identity {
    return join ' ', map { join ':', (stat)[0, 1, 4] } $state,
        glob "$state/*";
}

# what error.log got since the last call

my $read = 0;

sub news {
    my $text = substr $t->slurp('error.log'), $read;
    $read += length $text;
    return $text;
}

# while a fault lasts: a line of the log tells the way out, handshakes fail,
# deliveries verify, and nothing is changed

sub fails {
    my ($what, $line) = @_;
    my $before = identity();
    my $key    = '/fault/' . $n++;
    my ($log, @bad) = ('');
    my $told = wait_for(sub {
        my $r = $t->handshake($key, "$secret$key");
        push @bad, $r->{head}
            if $r->{status} != 503 || $r->{head} =~ /^X-Hook-Secret:/mi;
        $log .= news();
        return $log =~ /\[crit\] [^\n]*asana_hook: store "\Q$state\E"$line/;
    });
    ok $told, "$what: the log names the store and the way out" or diag $log;
    is "@bad", '', 'handshakes get 503 and no echo';
    my @r = map { $t->deliver('/known', "$secret/known", "$what $_") } 1 .. 8;
    is scalar(grep { $_->{status} == 200 } @r), 8, 'deliveries verify';
    like $t->deliver('/known', "$secret/other", 'x')->{status},
        qr/^(?:403|503)$/, 'as far as they are signed right';
    is identity(), $before, 'the files are what they were';
    return $key;
}

# after it, without any restart

sub works {
    my ($what, $key) = @_;
    ok wait_for(sub { $t->handshake($key, "$secret$key")->{status} == 200 }),
        "$what is over: the handshake is taken";
    is $t->deliver($key, "$secret$key", 'x')->{status}, 200, 'verifies';
    is $t->deliver('/known', "$secret/known", $what)->{status}, 200,
        'the first secret as well';
    news();
    return;
}

# a disk that fails

my @faults = (
    ['full disk', { write => ENOSPC }, 'No space left.*; make room'],
    ['EIO at a write', { write => EIO }, 'Input/output error; .*disk'],
    ['EIO at a sync', { sync => EIO }, 'Input/output error; .*disk'],
    ['EIO after the last write', { dsync => EIO },
        'Input/output error; .*disk'],
    ['short writes', { short => 1 }, 'Input/output error; .*disk'],
    ['read-only disk', { write => EROFS }, 'Read-only.*; mount'],
);

for my $fault (@faults) {
    my ($what, $control, $line) = @{$fault};
    my @cold = map {'/cold/' . $n++} 1 .. 4;
    is scalar(grep { $t->handshake($_, "$secret$_")->{status} == 200 } @cold),
        4, 'secrets that are not in the zone';
    $shim->set(%{$control});
    my $key = fails($what, " cannot be written: $line");
    for my $cold (@cold) {
        $t->handshake($key, "$secret$key");

        # 503 for as long as LMDB, which refuses itself now, is opened anew
        my %answer;
        ok wait_for(sub {
            my $status = $t->deliver($cold, "$secret$cold", 'x')->{status};
            $answer{$status}++;
            return $status == 200;
        }, 2), 'what is not in the zone is read while nothing can be written';
        is $answer{403}, undef, 'and never said to be wrong';
    }
    $shim->set;
    ok wait_for(sub {
        $t->deliver($key, "$secret$key", 'x')->{status} == 403
    }), 'what failed is not there';
    works($what, $key);
}

# a first delivery whose time could not be written proves its secret later

sub proven {
    my ($key) = @_;
    my $secrets = records($state)->{"localhost$key"} or return;
    return $secrets->[0]{verified};
}

(my $quick = $t->conf) =~ s/(asana_hook_zone \S+ .*);/$1 inactive=240s;/;
ok $t->reload($quick), 'times are written back often';
is $t->handshake('/late', "$secret/late")->{status}, 200, 'a secret';
$shim->set(write => EIO);
is $t->deliver('/late', "$secret/late", 'x')->{status}, 200,
    'its first delivery, while nothing can be written';
ok wait_for(sub { news() =~ /cannot be written/ }), 'fails to be noted';
is proven('/late'), 0, 'in the store';
$shim->set;
ok wait_for(sub {
    $t->deliver('/late', "$secret/late", 'x')->{status} == 200
        && proven('/late')
}), 'a later one is noted';
ok $t->reload($t->conf), 'back';
news();

# another directory, or none

my $replaced = ' was removed or replaced while in use; put it back';

rename $state, "$state.away" or die $!;
my $key = fails('removed directory', $replaced);
ok !-e $state, 'it is not made anew';
kill 'KILL', $t->workers;
$key = fails('removed directory, another worker',
    ' cannot be opened: No such file.*; restore the directory');
rename "$state.away", $state or die $!;
works('removed directory', $key);

my $other = Receiver->new->app->run;
is $other->handshake('/other', $secret)->{status}, 200, 'another store';
$other->stop;
rename $state, "$state.away" or die $!;
system 'cp', '-a', "$other->{dir}/state", $state;
$key = fails('replaced directory', $replaced);
is system('cmp', '-s', "$other->{dir}/state/data.mdb", "$state/data.mdb"), 0,
    'what took its place is not written';
remove_tree($state);
rename "$state.away", $state or die $!;
works('replaced directory', $key);
$other->end;

# new workers that cannot open it: a file that is not theirs, or damaged

SKIP: {
    skip 'only root can give files away', 1 if $>;
    my $user = (stat "$state/data.mdb")[4];
    chown 0, 0, glob "$state/*";
    ok $t->reload, 'files of root';
    $key = fails('files of root',
        ' cannot be opened: Permission denied; chown');
    chown $user, -1, glob "$state/*";
    works('files of root', $key);
}

SKIP: {
    skip 'no mounts here', 1
        if $> || system "mount --bind $state $state 2>/dev/null";
    system 'mount', '-o', 'remount,bind,ro', $state;
    ok $t->reload, 'a file system that is read-only';
    $key = fails('read-only file system',
        ' can only be read: Read-only file system; mount');
    system 'umount', '-l', $state;
    works('read-only file system', $key);
}

# puts another file in the place of data.mdb, with its mode and its owner

sub swap {
    my ($text) = @_;
    my @stat = stat "$state/data.mdb";
    $t->write_file('state/new', $text);
    chmod 0600, "$state/new" or die $!;
    chown @stat[4, 5], "$state/new";
    rename "$state/data.mdb", "$t->{dir}/good" or die $!;
    rename "$state/new", "$state/data.mdb" or die $!;
    return;
}

sub swap_back {
    rename "$t->{dir}/good", "$state/data.mdb" or die $!;
    return;
}

my %damage = (
    'garbage' => [
        'not a database ' x 4096,
        ' cannot be opened: .*left as it is, restore it from a backup'
    ],
    'only the head' => [
        substr($t->slurp('state/data.mdb'), 0, 8192),
        ': "data.mdb" has 8192 bytes instead of .*restore it from a backup'
    ],
    'less than the head' => [
        substr($t->slurp('state/data.mdb'), 0, 100),
        ' cannot be opened: .*left as it is, restore it from a backup'
    ],
);

for my $what (sort keys %damage) {
    my ($text, $line) = @{ $damage{$what} };
    swap($text);
    ok $t->reload, $what;
    my $k = fails($what, $line);
    ok $t->slurp('state/data.mdb') eq $text, 'it is left as it is';
    swap_back();
    works($what, $k);
}

# a newer format, which only a start meets

sub version {
    my ($from, $to) = @_;
    my $dump = qx(mdb_dump -s meta $state);
    $dump =~ s/^ $from$/ $to/m or die "no version: $dump";
    $t->write_file('meta', $dump);
    return system "mdb_load -s meta -f $t->{dir}/meta $state 2>/dev/null";
}

$t->stop;
is version('00000002', '00000004'), 0, 'a store of a newer version';
my $content = qx(mdb_dump -a $state);
my $before  = identity();
$t->start;
for my $r ($t->handshake('/new', "$secret/new"),
    $t->deliver('/known', "$secret/known", 'x'))
{
    is $r->{status}, 503, 'is not used';
    unlike $r->{head}, qr/^X-Hook-Secret:/mi, 'no echo';
}
my $made = qq({"X-Hook-Secret":"$secret/known"});
$t->answer(201, '', $made);
is $t->call('PUT', '/api/hooks?key=a', ["X-Hook-Secret: $secret"])->{status},
    503, 'PUT';
is $t->call('DELETE', '/api/hooks?key=a')->{status}, 503, 'DELETE';
is $t->call('POST', '/create', [], 'x')->{body}, $made, 'a create call';
ok wait_for(sub {
    $t->slurp('access.log') =~ m{^POST /create 201 \[ERROR\]}m
}), 'ERROR';
$t->answer(200, '', 'app');
like news(), qr/\[crit\].*store\ "\Q$state\E"\ cannot\ be\ used:
    \ MDB_VERSION_MISMATCH.*;\ it\ has\ the\ format\ of\ a\ newer\ version,
    \ upgrade/x,
    'and the log says why';
is qx(mdb_dump -a $state), $content, 'nor is it changed';
is identity(), $before, 'nor are its files';
is version('00000004', '00000002'), 0, 'the old version';
works('newer version', '/new');

# records that no version writes, one of them loaded after the other

sub api {
    my ($method, $key) = @_;
    return $t->call($method, "/api/hooks?key=localhost$key",
        ["X-Hook-Secret: $secret$key"])->{status};
}

my $damaged = qr/\[crit\].*store\ "\Q$state\E":\ what\ it\ holds\ for\ the\ key
    \ "localhost[^"]*"\ is\ damaged.*restore\ it\ from\ a\ backup/x;
my $latest = 253402300799;
my %record = (
    'cut'           => "\2\0",
    'empty'         => '',
    'too short'     => value(substr record('x' x 20), 0, -1),
    'too long'      => value(record('x' x 20) . 'x'),
    'another one'   => "\3" . record('x' x 20),
    'no state'      => value(record('x' x 20, pending => 2)),
    'twice'         => value((record('x' x 20)) x 2),
    'created late'  => value(record('x' x 20, created => $latest + 1)),
    'verified late' => value(record('x' x 20, verified => $latest + 1))
);
for my $what (sort keys %record) {
    (my $path = "/bad/$what") =~ s/ /-/g;
    is $t->handshake($path, "$secret$path")->{status}, 200, $what;
    is load($t->{dir}, 'hooks', "localhost$path", $record{$what}), 0,
        'a record that is damaged';
    is $t->deliver($path, "$secret$path", 'x')->{status}, 503,
        'a delivery gets 503';
    is $t->handshake($path, "$secret/other")->{status}, 503, 'a handshake';
    is api('GET', $path), 503, 'GET';
    ok wait_for(sub { api('GET', $path); news() =~ $damaged }),
        'the log says it';
    is $t->call('GET', '/api/hooks')->{status}, 200, 'the listing';
    unlike $t->call('GET', '/api/hooks')->{body}, qr/"localhost\Q$path\E"/,
        'goes on without it';
    for my $method (qw(PUT DELETE)) {
        is api($method, $path), 503, $method;
        works("$what, another key", "/beside/$method$path");
    }
}
is load($t->{dir}, 'hooks', 'localhost/latest',
    value(record('x' x 20, created => $latest, verified => $latest))), 0,
    'the last time that there is';
is $t->deliver('/latest', 'x' x 20, 'x')->{status}, 200, 'verifies';
is api('GET', '/latest'), 200, 'and is shown';

# an entry of an index that is none is passed over

is load($t->{dir}, 'pending_by_age', "\0" x 8, 'short'), 0, 'a damaged list';
works('a damaged list', '/list');

# a version that is none

$t->stop;
is version('00000002', '0002'), 0, 'a damaged version';
$t->start;
is $t->deliver('/known', "$secret/known", 'x')->{status}, 503, 'is not used';
ok news() =~ qr/store "\Q$state\E" cannot be used: MDB_CORRUPTED.*backup/,
    'the log says it';
$t->end;

done_testing;
