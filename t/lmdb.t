# Tests for the store in LMDB, outside nginx: what is written is read, indexes
# agree with values, a full store, damaged and old and newer ones.

use strict;
use warnings;

use lib 't/lib';

use Digest::SHA qw(sha256_hex);
use Test::More;

use Lmdb qw($dir $in $out $pid $plain batch checked end fresh id opened say_to
    secret slurp start used);

my $day = 86400;
my $now = 1_700_000_000;

# changes one by one

start();
my $state = fresh();
is opened($state), 'open', 'an empty one';
like slurp("$dir/log"), qr/was made anew/, 'the log says that it is new';
is say_to('find a'), 'found', 'it holds nothing';
like say_to('stat'), qr/^keys 0 secrets 0 pending 0 .* writable 1/, 'stat';
my ($s1, $s2, $s3) = map { secret($_) } 1 .. 3;
is say_to("handshake a first $s1"), 'added', 'a first one';
is say_to("handshake a first $s1"), 'held', 'again';
is say_to("handshake a first $s2"), 'refused', 'another one';
is say_to("handshake b confirm $s2"), 'added', 'a pending one';
is say_to('commits'), 'commits 2', 'a commit for each that changes something';
is say_to('find a'), "found $s1:$now:0:confirmed:", 'the first one';
is say_to('find b'), "found $s2:$now:0:pending:", 'the pending one';
is say_to('list'), 'list a=1 b=1', 'list';
is say_to('list a'), 'list b=1', 'list behind a key';
is say_to('list aa'), 'list b=1', 'list behind none';
is say_to('list b'), 'list', 'list behind the last';
is say_to("confirm $s2 4711"), 'changed', 'confirmed';
is say_to('find b'), "found $s2:$now:0:confirmed:4711", 'with its gid';
is say_to("confirm $s2 4711"), 'held', 'confirmed again';
is say_to("confirm $s1 12"), 'changed', 'a gid for one that was accepted';
is say_to("confirm $s3 12"), 'absent', 'one that never came';
is say_to("handshake c confirm $s3"), 'added', 'the same secret';
is say_to("handshake d confirm $s3"), 'added', 'under two keys';
is say_to("confirm $s3 13"), 'changed', 'is confirmed';
is say_to('find c'), "found $s3:$now:0:confirmed:13", 'under one';
is say_to('find d'), "found $s3:$now:0:confirmed:13", 'and the other';
is say_to('forget 1'), 'absent', 'a webhook that is not known';
is say_to('forget 130'), 'absent', 'nor is this';
is say_to("confirm $s3 14"), 'changed', 'another gid';
is say_to('forget 13'), 'absent', 'the old one is forgotten';
is say_to("handshake d open $s2"), 'added', 'another secret';
is say_to('forget 14'), 'changed', 'the webhook is deleted';
is join(' ', say_to('find c', 'find d')), "found found $s2:$now:0:confirmed:",
    'its secret is gone under both keys, the other one stays';
is say_to('forget 14'), 'absent', 'once';
is say_to('revoke d *'), 'changed', 'and the rest';
is join(' ', batch("handshake c confirm $s3", "handshake d confirm $s3",
    "confirm $s3 13")), 'added added changed', 'as it was';
is say_to('note a ' . id($s1) . ' ' . ($now - 1)), 'changed', 'a delivery';
is say_to('note a ' . id($s2) . " $now"), 'absent', 'of no secret of the key';
is say_to('find a'), "found $s1:$now:" . ($now - 1) . ':confirmed:12',
    'its time';
is say_to('revoke a ' . id($s2)), 'absent', 'revoked: none';
is say_to('revoke a ' . id($s1)), 'changed', 'revoked';
is say_to('find a'), 'found', 'is gone';
is say_to('revoke b *'), 'changed', 'revoked by key';
is say_to('list'), 'list c=1 d=1', 'what is left';
is join(' ', batch("handshake e first $s1", "handshake e first $s2",
    'revoke c *', "put f $s3")), 'added refused changed added',
    'a batch: each sees what the former did';
is say_to('find %0a'), 'not known', 'a key with a control character';
is say_to('handshake %0a first ' . $s1), 'failed', 'is not written either';
is say_to('find ' . 'k' x 480), 'found', 'a key of 480 bytes';
is say_to('find ' . 'k' x 481), 'not known', 'a longer one';
is say_to('handshake ' . 'k' x 480 . " first $s1"), 'added', 'is written';
is say_to('handshake ' . 'p' x 480 . " confirm $s1"), 'added', 'pending';
is say_to("now " . ($now + 301), 'handshake z off ' . $s2), 'refused',
    'later on';
unlike say_to('list'), qr/ppp/, 'what is past "pending" is dropped';
checked('after each kind of change');
is opened($state), 'open', 'again';
is say_to('list'), 'list d=1 e=1 f=1 ' . 'k' x 480 . '=1', 'all is there';
unlike slurp("$dir/log"), qr/made anew.*made anew/s, 'it is not new now';
say_to('close');
end();

# walks

for my $seed (1 .. 4) {
    srand $seed;
    start();
    $state = fresh();
    opened($state, 1 << 20, 500, 100, 3);
    my $time = $now;
    my @do   = (
        sub { "handshake $_[0] " . (qw(first open confirm gateway))[rand 4]
                . " $_[1]" },
        sub { "put $_[0] $_[1]" },
        sub { "confirm $_[1] " . int rand 9 },
        sub { 'forget ' . int rand 9 },
        sub { "revoke $_[0] " . (rand 4 < 1 ? '*' : id($_[1])) },
        sub { "note $_[0] " . id($_[1]) . ' ' . ($time - int rand 50) }
    );
    for (1 .. 60) {
        $time += int rand 40;
        $time += 10000 if rand 30 < 1;
        $time -= 9000 if rand 30 < 1;
        say_to("now $time");
        batch(map {
            $do[rand @do]->('key-' . int rand 9, secret(int rand 25))
        } 1 .. 1 + rand 12);
    }
    checked("walk $seed");
    end();
}

# many pending ones

start();
$state = fresh();
opened($state, 1 << 20, $day, 300, 16);
is scalar(grep { $_ eq 'added' } batch(map {
    "handshake p/$_ confirm " . secret($_) } 1 .. 200)), 200,
    '200 pending ones';
like say_to('stat'), qr/^keys 64 secrets 64 pending 64 /,
    'as many as the size allows are left';
is say_to('find p/136'), 'found', 'the oldest are gone';
like say_to('find p/137'), qr/pending/, 'the youngest are there';
say_to("now " . ($now + 301));
say_to("handshake q off $s1") for 1 .. 3;
like say_to('stat'), qr/pending 58 /, 'each handshake drops two that are old';
checked('many pending ones');
end();

# a full store

start();
$state = fresh();
opened($state, 1 << 20, $day, 300, 1000);
my ($added, $last) = (0, '');

sub fill {
    my ($prefix) = @_;
    for my $i (1 .. 200) {
        my @said = batch(map { "handshake $prefix/$i/$_ first "
                . secret("$prefix-$i-$_") . 'x' x 200 } 1 .. 100);
        my $got = grep { $_ eq 'added' } @said;
        $added += $got;
        return $said[-1] if $got < 100;
    }
    return;
}

is fill('live'), 'full', 'a store that takes no more';
cmp_ok $added, '>', 1000, "after $added secrets";
like slurp("$dir/log"), qr/takes no more/, 'the log says so';
is say_to("find live/1/1"), 'found ' . secret('live-1-1') . 'x' x 200
    . ":$now:0:confirmed:", 'nothing was dropped';
my $used = used();
cmp_ok $used, '<=', (1 << 20) + 65536, 'it is as large as allowed';
is say_to('handshake live/1/1 first ' . secret('live-1-1') . 'x' x 200), 'held',
    'what is held is acknowledged';
my @notes = map { "note live/1/$_ " . id(secret("live-1-$_") . 'x' x 200)
        . " $now" } 1 .. 100;
is scalar(grep { $_ eq 'changed' } batch(@notes)), 100, 'times are written';
is say_to('revoke live/2/1 *'), 'changed', 'a secret is revoked';
is join(' ', batch("handshake other first $s1", 'revoke live/2/2 *',
    'revoke live/2/3 *')), 'full changed changed',
    'one that does not fit is no matter of others';

# the drops: unproven ones past "inactive" first, then dead ones

say_to('now ' . ($now + $day - 1));
is say_to("handshake other first $s1"), 'full', 'a second before';
say_to('now ' . ($now + $day));
is say_to("handshake other first $s1"), 'added', 'then there is room';
like slurp("$dir/log"), qr/is full, .* were dropped/, 'the log says why';
is say_to('find live/1/100') =~ /confirmed/, 1, 'those that verified stay';
cmp_ok used(), '<', $used, 'there is room';
is say_to('find live/2/4'), 'found', 'the oldest that never did are gone';
checked('a full store');
end();

start();
$state = fresh();
opened($state, 1 << 20, 3600, 300, 1000);
$added = 0;
is fill('dead'), 'full', 'full again';
my $i = 0;

while (1) {
    $i++;
    my @said = batch(map { "note dead/$i/$_ "
            . id(secret("dead-$i-$_") . 'x' x 200) . ' ' . ($now - 1 + $i % 2)
        } 1 .. 100);
    last if !grep { $_ eq 'changed' } @said;
}

say_to('now ' . ($now + 90000 - 2));
is say_to("handshake other first $s1"), 'full', 'before 25 hours';
say_to('now ' . ($now + 90000));
is say_to("handshake other first $s1"), 'added', 'after 25 hours';
is say_to('find dead/1/1'), 'found', 'what was noted first is dropped';
checked('dead ones');
end();

# a clock that was ahead

start();
$state = fresh();
opened($state, 1 << 20, $day, 300, 16);
say_to('now ' . ($now + 365 * $day));
is say_to("handshake ahead confirm $s1"), 'added', 'a clock a year ahead';
is say_to("handshake seen first $s3"), 'added', 'a secret';
is say_to('note seen ' . id($s3) . ' ' . ($now + 365 * $day)), 'changed',
    'that verified then';
say_to("now $now");
is say_to("handshake genuine confirm $s2"), 'added', 'the clock is right again';
say_to('now ' . ($now + 10));
say_to("handshake x off $s3");
like say_to('find ahead'), qr/:@{[$now]}:0:pending/,
    'the one from the future counts from now';
say_to('now ' . ($now + 400));
say_to("handshake x off $s3") for 1 .. 2;
is say_to('find ahead'), 'found', 'and ends in its time';
is say_to('find genuine'), 'found', 'as the other one';
checked('a clock that was ahead');
end();

# long values, and a map that grows

start();
$state = fresh();
opened($state, 1 << 20, $day, 300, 1000);
my $ok = 0;

for my $k (1 .. 12) {
    my @said = batch(map { "handshake long-$k open "
            . 'x' x 220 . "-$k-$_" } 1 .. 200);
    $ok += grep { $_ eq 'added' } @said;
}

cmp_ok $ok, '>', 1000, 'keys with long values';
is scalar(grep { $_ eq 'changed' } batch(map { "note long-1 "
        . id('x' x 220 . "-1-$_") . " $now" } 1 .. 200)), 200, 'their times';
checked('long values');
end();

{
    start($plain);
    $state = fresh();
    opened($state, 1 << 20, $day, 300, 1000);
    my @writer = ($in, $out, $pid);
    start($plain);
    opened($state, 1 << 20, $day, 300, 1000);
    is say_to('find g/1'), 'found', 'another process, before there is anything';
    my @other = ($in, $out, $pid);
    ($in, $out, $pid) = @writer;
    batch(map { "handshake g/$_ first " . secret($_) . 'x' x 200 } 1 .. 1000);

    # a copy whose output nobody reads has a read open for as long

    pipe my $nobody, my $to or die $!;
    my $copy = fork // die $!;
    if (!$copy) {
        open STDOUT, '>&', $to or die $!;
        exec 'mdb_copy', $state;
    }
    1 while qx(mdb_stat -r $state) !~ /^\s*$copy\s+\S+\s+\d+$/m;
    my ($changed, %first) = (0);
    for my $round (1 .. 40) {
        my @said = batch("handshake r/$round first $s1", map { "note g/$_ "
                . id(secret($_) . 'x' x 200) . ' ' . ($now - 100 + $round)
            } map { 1 + ($round * 20 + $_) % 1000 } 1 .. 20);
        $first{ shift @said }++;
        $changed += grep { $_ eq 'changed' } @said;
    }
    ok !$first{held} && $first{full}, 'what was decided is not decided again';
    is $changed, 800, 'times are written while a reader holds all pages';
    cmp_ok -s "$state/data.mdb", '>', 2 << 20, 'the map has grown';
    is say_to("find g/1") =~ /confirmed/, 1, 'it can be read';
    ($in, $out, $pid) = @other;
    is say_to("find g/1") =~ /confirmed/, 1, 'by the other process as well';
    my $h = 0;
    1 while $h++ < 4000 && say_to("handshake h/$h first $s1") ne 'full';
    cmp_ok $h, '<', 4000, 'what is added does not let it grow';
    kill 'KILL', $copy;
    waitpid $copy, 0;
    is say_to("handshake h first $s1"), 'added', 'a dead reader holds nothing';
    say_to('close');
    end();
    ($in, $out, $pid) = @writer;
    is say_to("find h") =~ /confirmed/, 1, 'for both of them';
    checked('a map that grew');
    end();
}

# damaged, foreign, newer

sub load {
    my ($to, $text) = @_;
    open my $fh, '|-', "mdb_load $to 2>/dev/null" or die $!;
    print {$fh} $text;
    close $fh or die "mdb_load: $?";
    return;
}

sub database {
    my ($name, %entries) = @_;
    return join "\n", 'VERSION=3', 'format=bytevalue', "database=$name",
        'type=btree', 'HEADER=END',
        (map { ' ' . unpack('H*', $_), ' ' . $entries{$_} }
            sort keys %entries), "DATA=END\n";
}

start();
$state = fresh();
opened($state);
batch(map {"handshake $_ first $s1"} 'a' .. 'f');
say_to('close');
load($state, database('hooks', b => '02ffff', c => '', d => '09',
    "e\x01" => '02', 'k' x 490 => '02'));
opened($state);
for my $key (qw(b c d e%01), 'k' x 490) {
    is say_to("find $key"), 'not known', 'damaged: not known';
    next if length $key > 480;
    is say_to("handshake $key open $s2"), 'failed', 'nor changed';
}
is say_to('list'), 'list a=1 e=1 f=1', 'the others are listed';
is say_to("handshake a open $s2"), 'added', 'and changed';
is scalar(() = slurp("$dir/log") =~ /is damaged/g), 1,
    'one line within a second';
say_to('close');
load($state, database('meta', version => '00000004'));
my $before = sha256_hex(slurp("$state/data.mdb"));
is opened($state), 'not open', 'a newer format';
is say_to('find a'), 'not known', 'is not read';
is say_to("handshake a open $s3"), 'failed', 'nor written';
like slurp("$dir/log"), qr/cannot be used/, 'the log says why';
say_to('close');
is sha256_hex(slurp("$state/data.mdb")), $before, 'it is left as it is';
$state = fresh();
load($state, database('theirs', a => '00'));
is opened($state), 'not open', 'the database of somebody else';
say_to('close');
open my $fh, '>', "$state/data.mdb" or die $!;
print {$fh} 'nothing' x 4096;
close $fh or die $!;
is opened($state), 'not open', 'no database at all';
say_to('close');
is opened("$dir/missing"), 'not open', 'no directory';
is say_to('find a'), 'not known', 'nothing is known';
mkdir "$dir/missing" or die $!;
say_to('now ' . ($now + 1));
is say_to('prepare'), 'prepared', 'an empty batch opens it';
is say_to('find a'), 'found', 'then it is known';
rename "$dir/missing", "$dir/moved" or die $!;
is say_to("handshake a first $s1"), 'failed', 'a directory that was moved';
is say_to('find a'), 'found', 'is read';
like slurp("$dir/log"), qr/was removed or replaced/, 'the log says why';
rename "$dir/moved", "$dir/missing" or die $!;
is say_to("handshake a first $s1"), 'added', 'put back, it is written';
rename "$dir/missing/lock.mdb", "$dir/missing/lock" or die $!;
is say_to("handshake b first $s1"), 'failed', 'lock.mdb was removed';
my @first = ($in, $out, $pid);
start();
is opened("$dir/missing"), 'open', 'another process opens it';
like say_to('find a'), qr/confirmed/, 'reads';
is say_to("handshake b first $s2"), 'failed', 'but does not write';
my @second = ($in, $out, $pid);
($in, $out, $pid) = @first;
say_to('close');
end();
($in, $out, $pid) = @second;
is say_to("handshake b first $s2"), 'added', 'until the first one has ended';
checked('lock.mdb was removed');
end();

# a store without an index by gid gets it with the next change

start();
$state = fresh();
opened($state);
is say_to("handshake a first $s1"), 'added', 'a secret';
say_to('close');
my @parts = split /(?=^VERSION=3$)/m, qx(mdb_dump -a $state);
is scalar(grep {/^database=secrets_by_gid$/m} @parts), 1, 'an index by gid';
my $without = join '', grep { !/^database=secrets_by_gid$/m } @parts;
my $other = fresh();
load($other, $without);
is opened($other), 'open', 'a store without it';
like say_to('find a'), qr/^found $s1/, 'is read';
like say_to('stat'), qr/^keys 1 secrets 1 /, 'and counted';
is say_to('forget 12'), 'absent', 'nothing is in it';
is say_to("confirm $s1 12"), 'changed', 'what is new stands there';
like say_to('stat'), qr/^keys 1 secrets 1 /, 'counted';
checked('an index that was made later');
opened($other);
is say_to('forget 12'), 'changed', 'and is found';
say_to('close');
end();

# format 1, as it was written

sub format_1 {
    my $to = fresh();
    load($to, slurp('t/data/format-1.dump'));
    return $to;
}

start();
my @old = (
    'list localhost/both=2 localhost/first=1 localhost/long=1'
        . ' localhost/open=3 localhost/pending=2 localhost/verified=1',
    'find localhost/both', 'find localhost/open', 'find localhost/pending',
    'find localhost/verified', 'find localhost/long'
);
my $then = 1795772440;
$state = format_1();
say_to("now $then");
opened($state, 1 << 20, 7 * $day, 3600, 4);
is say_to('list'), $old[0], 'format 1 is read';
like say_to('stat'), qr/^keys 6 secrets 10 /, 'and counted';
my @was = say_to(@old[1 .. 5]);
like $was[0], qr/both-confirmed.*both-pending\S*:pending/, 'a key';
is say_to('revoke nothing *'), 'absent', 'the first change converts it';
is say_to('list'), $old[0], 'the same keys';
is_deeply [say_to(@old[1 .. 5])], \@was, 'and secrets';
like say_to('stat'), qr/^keys 6 secrets 10 pending 3 /, 'counted anew';
is say_to('confirm secret-of-format-1-pending-2 5'), 'changed',
    'what is pending is found by its id';
checked('a store that was converted');
opened($state, 1 << 20, 7 * $day, 3600, 4);
is say_to('list'), $old[0], 'opened again';
say_to('close');
$state = format_1();
my $dump = database('secrets', 'localhost/first' => '0011');
$dump =~ s/^HEADER/duplicates=1\nHEADER/m;
load($state, $dump);
opened($state, 1 << 20, 7 * $day, 3600, 4);
is say_to('find localhost/first'), 'not known', 'damaged in format 1';
say_to("handshake new first $s1");
is say_to('find localhost/first'), 'not known', 'stays so';
like say_to('find new'), qr/confirmed/, 'the others are converted';
say_to('close');
end();

# an environment that is of no use any more

my $shim = "$dir/shim.so";

SKIP: {
    skip 'no shim', 1
        if system "cc -shared -fPIC -o $shim t/lib/shim.c -ldl 2>/dev/null";
    local $ENV{LD_PRELOAD} = $shim;
    local $ENV{ASANA_SHIM} = "$dir/control";
    my $faults = sub {
        open my $c, '>', "$dir/control" or die $!;
        print {$c} "$_[0]\n";
        return close $c;
    };
    $faults->('');
    start($plain);
    delete $ENV{LD_PRELOAD};
    $state = fresh();
    opened($state);
    is say_to("handshake a first $s1"), 'added', 'a secret';
    for my $fault ('sync=5', 'dsync=5', 'write=28', 'dsync=28') {
        my $t = $now += 10;
        say_to("now $t");
        $faults->($fault);
        is join(' ', batch("handshake b first $s2", "handshake a first $s1")),
            'failed failed', "$fault: nothing is promised";
        $faults->('');
        my $said = say_to('find a');
        like $said, qr/confirmed|not known/, 'known or not known, never none';
        is say_to('prepare'), 'prepared', 'opened again';
        like say_to('find a'), qr/confirmed/, 'it is known';
        is say_to("handshake c$t first $s2"), 'added', 'and written';
    }
    checked('failures');
    end();
}

done_testing;
