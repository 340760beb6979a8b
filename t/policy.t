# Tests for the policy: each state of a key with each change, and random walks,
# against a model that was written from the documentation alone.

use strict;
use warnings;

use lib 't/lib';

use Test::More;
use Time::HiRes qw(time);

use Policy qw(@fields model seen);
use Units;

my @enrolls = qw(off first open confirm gateway);
my @types   = qw(handshake put confirm revoke note forget);
my ($inactive, $pending) = ($Policy::inactive, $Policy::pending);
my %enrolls = map { $enrolls[$_] => $_ } 0 .. 4;
my %types   = map { $types[$_]   => $_ } 0 .. 5;
my @times   = qw(verified answered failing);

my $units = Units->new('policy', 'health');

# a line for the program, and the line that it is to answer

sub secret { return join ':', @{$_[0]}{@fields} }

sub line {
    my ($set, $c, $now, $max) = @_;
    return join ' ', 'decide', $now, $inactive, $pending, $max,
        join(':', $types{$c->{type}}, $enrolls{$c->{enroll}},
        @$c{qw(creating all verified answered failing code id gid text)}), map { secret($_) } @$set;
}

sub result {
    my ($now, $is, $why, @set) = @_;
    my $active = grep { !$_->{pending} && $now - seen($_) < $inactive } @set;
    return join ' ', $is, $why, $active ? 1 : 0, map { secret($_) } @set;
}

my %met;

sub compare {
    my ($name, $lines, $wanted) = @_;
    my $start = time;
    my @got = $units->run(@$lines);
    my $took = time - $start;
    my @wrong = grep { $got[$_] ne $wanted->[$_] } 0 .. $#$lines;
    $met{join ' ', (split ' ', $_)[0, 1]}++ for @$wanted;
    is @wrong, 0, sprintf '%s: %d cases in %d ms', $name, scalar @$lines,
        1000 * $took;
    splice @wrong, 3 if @wrong > 3;
    diag "$lines->[$_]\n got $got[$_]\nwant $wanted->[$_]" for @wrong;
    return;
}

# what a secret can be; "now" is 100000

my $now = 100_000;
my %kinds = (
    active   => [-999,  0],
    verified => [-9000, -1],
    inactive => [-1000, -2000],
    idle     => [-3000, -1001],
    ahead    => [50,    70],
    fresh    => [0,     0, 1],
    waiting  => [-299,  0, 1],
    expired  => [-300,  0, 1],
);
my @kinds = sort keys %kinds;
my $mine  = 'the-secret-that-comes';
my $id    = sub { sprintf '%016x', 0x1000 + $_[0] };

sub kind {
    my ($kind, $n, $text) = @_;
    my ($created, $verified, $waits) = @{$kinds{$kind}};
    my $at = $verified ? $now + $verified : 0;
    my %s;
    @s{@fields} = ($id->($n), 100 + $n, $now + $created, $at, $at,
        $verified ? $now + 2 * $verified : 0, $waits ? 0 : 200, $waits || 0,
        $n % 2 ? "12$n" : '', $text || "another-secret-$n-" . 'x' x $n);
    return \%s;
}

sub change {
    my (%c) = @_;
    return {enroll => 'off', creating => 0, all => 0, gid => '', code => 200,
        (map { $_ => 0 } @times), id => $id->(0), text => $mine, %c};
}

my @changes = (
    (map { change(type => 'handshake', enroll => $_) } @enrolls),
    change(type => 'handshake', enroll => 'gateway', creating => 1),
    (map { change(type => $_, id => $id->(1)) } qw(handshake put confirm)),
    change(type => 'handshake', enroll => 'confirm', id => $id->(1)),
    change(type => 'put'),
    (map { change(type => 'confirm', gid => $_) } '', 0 x 32, '120', '121'),
    (map { change(type => 'revoke', id => $id->($_)) } 0 .. 2),
    change(type => 'revoke', all => 1),
    (map { change(type => 'forget', gid => $_) } '', '12', '121', '123'),
    (map { change(type => 'note', verified => $now + $_) } -9000, -1, 0, 100),
    (map { change(type => 'note', verified => $now + $_,
            answered => $now + $_) } -9000, -1, 0, 100),
    (map { change(type => 'note', verified => $now + 10, code => 500,
            answered => $now - 1500, failing => $now + $_) }
        -1600, -1500, -1499, -3, 0, 10),
    change(type => 'note', verified => $now - 1, id => $id->(1)),
);

my @others = ([], (map { [$_] } @kinds),
    map { my $k = $_; map { [$k, $_] } @kinds } @kinds);
push @others, map { [@$_, 'idle'], ['fresh', @$_], [@$_, 'active'] }
    grep { @$_ == 2 && $_->[0] le $_->[1] } @others;

my (@lines, @wanted);

for my $others (@others) {
    for my $own ('', @kinds) {
        my $n = 0;
        my @set = map { kind($_, ++$n) } @$others;
        splice @set, @set / 2, 0, kind($own, 0, $mine) if $own;

        for my $max (1, 2, 3) {
            for my $c (@changes) {
                push @lines, line(\@set, $c, $now, $max);
                push @wanted, result($now, model(\@set, $c, $now, $max));
            }
        }
    }
}

compare('all states and changes', \@lines, \@wanted);

# none of what can be is left out

is join(', ', sort keys %met), 'ABSENT 0, ADDED 0, CHANGED 0, HELD 0, '
    . 'REFUSED 1, REFUSED 2, REFUSED 3, REFUSED 4, REFUSED 5', 'met';

# walks: what a change leaves is what the next one finds

my $seed = $ENV{ASANA_HOOK_SEED} || time ^ $$;
srand $seed;

sub pick { return $_[rand @_] }

my ($at, $max, @set) = ($now, 1);
@lines = @wanted = ();

for my $step (1 .. 100_000) {
    if ($step % 200 == 1) {
        ($at, $max, @set) = ($now, pick(1 .. 6));
    }
    $at += pick(0, 0, 0, 1, 1, 10, 100, $pending - 1, $inactive, -50);

    my $n = int rand 10;
    my $c = change(
        type     => pick(@types, 'handshake', 'handshake', 'note'),
        enroll   => pick(@enrolls, 'confirm'),
        creating => pick(0, 1),
        all      => pick((0) x 9, 1),
        verified => $at + pick(-2000, -20, -1, 0, 1),
        answered => $at + pick(-$at, -2000, -20, -1, 0, 1),
        failing  => $at + pick(-$at, -$at, -2000, -20, -1, 0, 1),
        code     => pick(200, 204, 404, 500),
        gid      => pick('', 1200 + $n, 1),
        id       => $id->($n),
        text     => "secret-number-$n-" . 'y' x $n
    );

    push @lines, line(\@set, $c, $at, $max);
    my ($is, $why, @new) = model(\@set, $c, $at, $max);
    push @wanted, result($at, $is, $why, @new);
    next if $is ne 'CHANGED' && $is ne 'ADDED';
    @set = @new;
    $_->{serial} ||= $step for @set;
    fail "step $step: too many" if @set > 2 * $max;
}

compare("walks, seed $seed", \@lines, \@wanted);

# without memory nothing is dropped for what cannot be added then

my @idle = (kind('idle', 1), kind('fresh', 2));
my @whole = map { secret($_) } @idle;

for my $enroll (qw(first open confirm)) {
    my $line = line(\@idle, change(type => 'handshake', enroll => $enroll),
        $now, 1);
    is join(' ', $units->run("nomem $line")), "FAILED 0 0 @whole",
        "no memory, $enroll";
}

# words and reasons

is join(' ', $units->run(map {"enroll $_"} @enrolls)), '0 1 2 3 4', 'words';
is join(' ', $units->run(map {"enroll $_"} '', 'Off', 'of', 'offf', 'first ')),
    join(' ', ('DECLINED') x 5), 'no words';

my @reasons = $units->run(map {"reason $_"} 0 .. 5);
is $reasons[0], '', 'no reason';
like $reasons[$_], qr/^[^A-Z].*;.*[^.]$/, "reason $_: the cause, the way out"
    for 1 .. 5;

done_testing;
