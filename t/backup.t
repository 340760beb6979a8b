# Tests for what an operator does with the store: backups, dumps, sharing.

use strict;
use warnings;

use lib 't/lib';

use Digest::SHA qw(sha256);
use POSIX ();
use Test::More;

use Stored qw(pairs records);
use Receiver qw(raw sign wait_for);

my $secret = 'a-secret-of-printable-text-0123456789';
my $body   = '{"events":[]}';
my $answer = 'asana_hook_heartbeat answer;';
my $t      = Receiver->new(location => $answer)->app->run;
my $state  = "$t->{dir}/state";
my $user   = $> == 0 ? 'www-data' : scalar getpwuid $>;

sub enroll {
    my ($receiver, @keys) = @_;
    my @r = $receiver->many(
        map { raw($_, "X-Hook-Secret: $secret$_", '') } @keys);
    return scalar grep { $_->{status} == 200 } @r;
}

sub verify {
    my ($receiver, @keys) = @_;
    my @r = $receiver->many(map {
        raw($_, 'X-Hook-Signature: ' . sign("$secret$_", $body), $body)
    } @keys);
    return scalar grep { $_->{status} == 200 } @r;
}

sub mode { return sprintf '%o', (stat $_[0])[2] & 4095 }

sub private {
    my ($dir) = @_;
    my @bad = grep { mode($_) ne '600' } glob "$dir/*";
    push @bad, $dir if mode($dir) ne '700';
    push @bad, grep { getpwuid((stat)[4]) ne $user } $dir, glob "$dir/*";
    my @files = glob "$dir/*";
    is "@bad", '', 'the directory is 0700, the files are 0600';
    is scalar @files, 2, 'two of them';
    return;
}

# a dump has the layout that src/ngx_http_asana_hook_records.c describes

my $start = time;
is enroll($t, '/dump/1', '/dump/2'), 2, 'two secrets';
private($state);
is verify($t, '/dump/2'), 1, 'one verifies';
is enroll($t, '/dump/3'), 1, 'a third one';
my $end = time;

my $records = records($state);
is_deeply [sort keys %{$records}], [map {"localhost/dump/$_"} 1 .. 3],
    'a dump has a record for each key';
my @secrets = map { $records->{"localhost/dump/$_"}[0] } 1 .. 3;
for my $n (1 .. 3) {
    my $s = $secrets[$n - 1];
    is scalar @{ $records->{"localhost/dump/$n"} }, 1, "record $n: one secret";
    is $s->{id}, unpack('H*', substr sha256("$secret/dump/$n"), 0, 8),
        'its id';
    ok $s->{created} >= $start - 1 && $s->{created} <= $end,
        'when it was made'
        or diag $s->{created};
    ok $n == 2
        ? $s->{verified} >= $s->{created} && $s->{verified} <= $end
        : !$s->{verified}, 'when it verified a delivery'
        or diag $s->{verified};
    is $s->{pending}, 0, 'its state';
    is $s->{secret}, "$secret/dump/$n", 'the secret';
}

for (['unproven', 1, 3], ['proven', 2], ['pending']) {
    my ($age, @keys) = @{$_};
    my @order = pairs($state, "${age}_by_age");
    is join(' ', map { substr $_->[1], 8 } @order),
        join(' ', map {"localhost/dump/$_"} @keys), "$age ones by their age";
    is join(' ', map { unpack 'Q>', $_->[0] } @order),
        join(' ', map { $secrets[$_ - 1]{serial} } @keys), 'their places';
}
is join(' ', map { unpack 'H*', "@{$_}" } pairs($state, 'meta')),
    unpack('H*', "version \0\0\0\2"), 'the version of the format';

# a copy that is made while secrets come

my $done = "$t->{dir}/done";
my $pid  = fork;
die "fork: $!" unless defined $pid;
if (!$pid) {
    my $n = 0;
    until (-e $done) {
        my @keys = map { '/storm/' . $n++ } 1 .. 8;
        enroll($t, @keys) == 8 or POSIX::_exit(1);
        $t->write_file('storm', $n);
    }
    POSIX::_exit(0);
}
ok wait_for(sub { ($t->slurp('storm') || 0) >= 64 }), 'handshakes';

my $before = $t->slurp('storm');
mkdir "$t->{dir}/backup", 0700 or die $!;
is system('mdb_copy', $state, "$t->{dir}/backup"), 0, 'mdb_copy';
ok wait_for(sub { $t->slurp('storm') > $before + 64 }), 'more handshakes';
$t->write_file('done', '');
waitpid $pid, 0;
is $?, 0, 'all of them were taken';
my $after = $t->slurp('storm');
is verify($t, map {"/storm/$_"} 0 .. $after - 1), $after, 'and verify';

# restored elsewhere, and served by another nginx

my $restored = Receiver->new(location => $answer)->app;
mkdir "$restored->{dir}/state", 0700 or die $!;
system 'cp', "$t->{dir}/backup/data.mdb", "$restored->{dir}/state/data.mdb";
chmod 0600, "$restored->{dir}/state/data.mdb" or die $!;
system 'chown', '-R', $user, "$restored->{dir}/state";
$restored->run;
my @keys = (map({"/dump/$_"} 1 .. 3), map {"/storm/$_"} 0 .. $before - 1);
is verify($restored, @keys), scalar @keys, 'a restored copy has them all';
is verify($restored, '/storm/' . ($after - 1)), 0, 'not what came later';
is enroll($restored, '/new'), 1, 'and takes another';
is verify($restored, '/new'), 1, 'which verifies';
is verify($t, '/new'), 0, 'not in the first store';
private("$restored->{dir}/state");
$restored->end;

# two nginx on one store

my $other = Receiver->new(location => $answer);
(my $conf = $other->conf) =~ s{state=\S+}{state=$state};
$other->app->run($conf);
my $late = 0;
for my $n (1 .. 200) {
    my ($one, $two) = $n % 2 ? ($t, $other) : ($other, $t);
    $late++ if verify($two, "/shared/$n");
    $late++ if enroll($one, "/shared/$n") != 1;
    $late++ if verify($two, "/shared/$n") != 1;
}
is $late, 0, 'what one of two nginx takes the other one knows at once';
private($state);
$other->end;
$t->end;

# a zone far smaller than the store

$t = Receiver->new(workers => 2, location => $answer)->app;
($conf = $t->conf) =~ s/zone=hooks:1m/zone=hooks:32k/;
$t->run($conf);
@keys = map {"/small/$_"} 1 .. 2000;
is enroll($t, @keys), 2000, 'a zone of 32k and 2000 secrets';
is verify($t, @keys), 2000, 'all verify';
is verify($t, reverse @keys), 2000, 'in another order as well';
$t->stop;
$t->start;
is verify($t, @keys), 2000, 'and after a restart';
is verify($t, '/small/0'), 0, 'another does not';
private("$t->{dir}/state");
$t->end;

done_testing;
