# Tests for lock.mdb: no room for it, and one that is removed while in use.

use strict;
use warnings;

use lib 't/lib';

use File::Copy qw(copy);
use Test::More;

use Receiver qw(request response wait_for);
use Stored qw(records);

my $secret = 'a-secret-of-printable-text-0123456789';
my $user   = $> == 0 ? 'www-data' : scalar getpwuid $>;

sub blocks { my @stat = stat $_[0]; return $stat[12] * 512 }

sub refused {
    my ($t, $uri) = @_;
    my $r = $t->handshake($uri, "$secret$uri");
    return $r->{status} == 503 && $r->{head} !~ /^X-Hook-Secret:/mi;
}

sub accepted {
    my ($t, $uri) = @_;
    return wait_for(sub {
        $t->handshake($uri, "$secret$uri")->{status} == 200
    });
}

# How many verify.  A worker that opens the store anew says 503 meanwhile: it
# does not know, and Asana sends the delivery again.

sub verified {
    my ($t, @uris) = @_;
    my $n = 0;
    for my $uri (@uris) {
        my $status;
        wait_for(sub {
            $status = $t->deliver($uri, "$secret$uri", 'x')->{status};
            return $status != 503;
        });
        $n++ if $status == 200;
    }
    return $n;
}

# all of it is there before it is used

my $t = Receiver->new->app->run;
ok accepted($t, '/known'), 'a secret';
my $lock = "$t->{dir}/state/lock.mdb";
cmp_ok blocks($lock), '>=', -s $lock, 'lock.mdb has a block for each byte';
$t->stop;
my $size = -s $lock;
truncate $lock, 0 or die $!;
truncate $lock, $size or die $!;
cmp_ok blocks($lock), '<', $size, 'one with holes';
$t->start;
ok accepted($t, '/after'), 'is used';
cmp_ok blocks($lock), '>=', $size, 'and has none then';
is -s $lock, $size, 'of the same size';
is verified($t, '/known', '/after'), 2, 'secrets verify';
$t->stop;
copy("$t->{dir}/state/data.mdb", "$t->{dir}/backup") or die $!;
$t->end;

# a file system without room for it

SKIP: {
    skip 'no mounts here', 1 if $>;

    for my $case ('a restored data.mdb', 'a lock.mdb with holes',
        'a first start')
    {
        $t = Receiver->new(workers => 3)->app;
        my $state = "$t->{dir}/state";
        mkdir $state, 0700 or die $!;
        system('mount', '-t', 'tmpfs', '-o', 'size=512k,mode=700', 'none',
            $state) == 0
            or skip 'no mounts here', 1;
        my $known = $case eq 'a first start' ? 0 : 1;
        if ($known) {
            my $from = Receiver->new->app->run;
            ok accepted($from, '/known'), 'a backup';
            $from->stop;
            system 'cp', "$from->{dir}/state/data.mdb", $state;
            $from->end;
        }
        if ($case =~ /holes/) {
            open my $fh, '>', "$state/lock.mdb" or die $!;
            truncate $fh, $size;
            close $fh;
        }
        chmod 0600, glob "$state/*";
        system 'chown', '-R', $user, $state;
        system "dd if=/dev/zero of=$state/fill bs=4k 2>/dev/null";
        $t->run;
        ok wait_for(sub { refused($t, '/a') }), "$case, no room: refused";
        ok wait_for(sub {
            refused($t, '/a');
            $t->slurp('error.log')
                =~ /\[crit\].*"\Q$state\E".*No space left.*; make room/
        }), 'the log says why, and the way out';
        is verified($t, '/known'), $known, 'what is stored verifies';
        is $t->deliver('/other', $secret, 'x')->{status}, $known ? 403 : 503,
            'what is not known does not';
        ok refused($t, "/a/$_"), 'refused' for 1 .. 8;
        unlink "$state/fill" or die $!;
        ok accepted($t, '/b'), 'with room it is accepted';
        is verified($t, '/b', $known ? '/known' : ()), 1 + $known, 'verifies';
        is verified($t, '/a'), 0, 'what was refused does not';
        cmp_ok blocks("$state/lock.mdb"), '>=', -s "$state/lock.mdb",
            'lock.mdb has its blocks';
        $t->stop;
        unlike $t->slurp('error.log'), qr/on signal/, 'no worker died';
        system 'umount', '-l', $state;
        $t->end;
    }
}

# a limit of the size of files, which nginx gets from this process

SKIP: {
    my $limit = sub {
        my ($bytes) = @_;
        return !system "prlimit --pid $$ --fsize=$bytes: 2>/dev/null";
    };
    skip 'no prlimit here', 1 if !$limit->('unlimited');
    local $SIG{XFSZ} = 'IGNORE';
    $t = Receiver->new(level => 'crit')->app->run;
    my $log = qr/\[crit\].*"\Q$t->{dir}\E\/state".*File too large.*; raise/;
    ok accepted($t, '/known'), 'a secret';
    $t->stop;
    $limit->(-s "$t->{dir}/state/lock.mdb");
    $t->start;
    my @workers = $t->workers;
    my $n = 0;
    my $full = wait_for(sub {
        $t->write_file('access.log', '');
        refused($t, '/large/' . substr('l' x 200, ++$n % 8) . $n)
    });
    ok $full, 'a limit of the size of data.mdb: refused';
    like $t->slurp('error.log'), qr/$log|Input.output error; check/,
        'the log says why, also if a part fits';
    is verified($t, '/known'), 1, 'what is stored verifies';
    is join(' ', $t->workers), join(' ', @workers), 'the worker lives';
    $t->stop;
    $limit->('unlimited');
    $t->start;
    ok accepted($t, '/after'), 'without it it is accepted';

    $t->stop;
    unlink "$t->{dir}/state/lock.mdb" or die $!;
    $t->write_file('error.log', '');
    $limit->(65536);
    $t->start;
    @workers = $t->workers;
    ok wait_for(sub {
        refused($t, '/small') && $t->slurp('error.log') =~ $log
    }), 'one that is too small for lock.mdb: refused, the log says why';
    is verified($t, '/known', '/after'), 2, 'what is stored verifies';
    is join(' ', $t->workers), join(' ', @workers), 'the worker lives';
    $t->stop;
    $limit->('unlimited');
    $t->start;
    ok accepted($t, '/small'), 'without it it is accepted';
    $t->end;
}

# removed while in use: nobody writes, everybody reads, nothing is lost

my $gone = qr/\[crit\]\ .*store\ ".*"\ cannot\ be\ (?:written|opened):
    \ "lock.mdb"\ was\ removed\ or\ replaced.*;\ reload\ nginx/x;

sub remove { my ($path) = @_; return unlink $path }

sub replace {
    my ($path) = @_;
    return !system "cp -a $path $path.new && mv $path.new $path";
}

for my $case ([removed => \&remove], [replaced => \&replace]) {
    my ($what, $code) = @{$case};
    $t = Receiver->new(workers => 2)->app->run;
    my $path = "$t->{dir}/state/lock.mdb";
    my @keys = map {"/first/$_"} 1 .. 40;
    is scalar(grep { accepted($t, $_) } @keys), 40, '40 secrets';

    # requests that the old workers have begun to read

    my @half = map {"/half/$_"} 1 .. 24;
    my @c = map {
        request($t->connection, "POST $_ HTTP/1.1\r\nHost: localhost\r\n"
            . "X-Hook-Secret: $secret$_\r\n")
    } @half;
    $t->call('GET', '/') for 1 .. 8;

    $code->($path) or die $!;
    ok refused($t, '/none'), "lock.mdb $what: handshakes are refused";
    like $t->slurp('error.log'), $gone, 'the log says why, and the way out';
    is verified($t, @keys), 40, 'deliveries verify';

    # the way out

    my @old = $t->workers;
    kill 'HUP', $t->master;
    ok wait_for(sub { (grep { !Receiver::gone($_) } $t->workers) > 2 }),
        'reload';
    my @new = map {"/new/$_"} 1 .. 24;
    my @taken = grep { $t->handshake($_, "$secret$_")->{status} == 200 } @new;
    for my $i (0 .. $#c) {
        request($c[$i], "Content-Length: 0\r\n\r\n");
        push @taken, $half[$i] if response($c[$i])->{status} == 200;
        close $c[$i];
    }
    is verified($t, @keys), 40, 'deliveries verify meanwhile';
    ok wait_for(sub { Receiver::gone(@old) }), 'the old workers end';
    ok accepted($t, "/last/$_"), 'handshakes are accepted again' for 1 .. 4;
    push @taken, map {"/last/$_"} 1 .. 4;
    is verified($t, @keys, @taken), @keys + @taken, 'nothing is lost';
    $t->stop;
    $t->start;
    is verified($t, @keys, @taken), @keys + @taken, 'after a restart as well';
    my $stored = records("$t->{dir}/state");
    is scalar(grep { !$stored->{"localhost$_"} } @keys, @taken), 0,
        'all are stored';
    $t->end;
}

# two nginx, one of them restarted

my $one = Receiver->new->app->run;
my $two = Receiver->new;
(my $conf = $two->conf) =~ s{state=\S+}{state=$one->{dir}/state};
$two->app->run($conf);
ok accepted($one, '/one'), 'one nginx';
ok accepted($two, '/two'), 'and another on the same store';
unlink "$one->{dir}/state/lock.mdb" or die $!;
$one->stop;
$one->start;
my @taken = ('/one', '/two');
for my $n (1 .. 24) {
    my $key = "/both/$n";
    push @taken, $key
        if ($n % 2 ? $one : $two)->handshake($key, "$secret$key")->{status}
            == 200;
}
is scalar @taken, 2, 'neither writes while they have not the same lock.mdb';
is verified($one, @taken), 2, 'the restarted one reads';
is verified($two, @taken), 2, 'the other one as well';
like $one->slurp('error.log'), $gone, 'it says why, and the way out';
like $two->slurp('error.log'), $gone, 'the other one, too';
ok $two->reload, 'a reload';
for my $nginx ($one, $two) {
    my $key = "/again/$nginx->{port}";
    ok accepted($nginx, $key), 'both write again';
    push @taken, $key;
}
is verified($one, @taken), scalar @taken, 'nothing is lost';
is verified($two, @taken), scalar @taken, 'in neither';
$_->end for $two, $one;

done_testing;
