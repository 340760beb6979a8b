# Tests for a store that cannot be written: what is stored is read all the
# same, what is not known is not taken for unknown, and it recovers.

use strict;
use warnings;

use lib 't/lib';

use Errno qw(EIO EROFS);
use Test::More;
use Time::HiRes qw(time);

use Receiver qw(request response wait_for);
use Shim;

Shim::usable();

my $secret = 'a-secret-of-printable-text-0123456789';
my $user   = $> == 0 ? 'www-data' : scalar getpwuid $>;
my $t      = Receiver->new(
    location => 'asana_hook_heartbeat answer;',
    server   => 'location /api { asana_hook_api hooks write=on; }'
)->app;
my $shim  = Shim->new($t);
my $state = "$t->{dir}/state";
my $n     = 0;
my $read  = 0;

sub news {
    my $text = substr $t->slurp('error.log'), $read;
    $read += length $text;
    return $text;
}

# secrets that are stored and not in the zone

sub cold {
    my ($count) = @_;
    my @keys = map { '/cold/' . $n++ } 1 .. $count;
    for my $key (@keys) {
        wait_for(sub { $t->handshake($key, "$secret$key")->{status} == 200 })
            or die "$key is not accepted";
    }
    return @keys;
}

sub statuses {
    my @keys = @_;
    return map { $t->deliver($_, "$secret$_", 'x')->{status} } @keys;
}

sub refused {
    my $r = $t->handshake('/refused/' . $n++, $secret);
    return $r->{status} == 503 && $r->{head} !~ /^X-Hook-Secret:/mi;
}

# what the log says while handshakes are refused

sub told {
    my ($pattern) = @_;
    my $log = '';
    wait_for(sub { refused(); $log .= news(); return $log =~ $pattern });
    return $log;
}

sub works {
    my ($what) = @_;
    my $key = '/works/' . $n++;
    ok wait_for(sub { $t->handshake($key, "$secret$key")->{status} == 200 }),
        "$what is over: a handshake is accepted";
    is join(' ', statuses($key)), 200, 'verifies';
    news();
    return;
}

$t->run;

# while a batch fails, and the next ones wait

for my $fault ({ sync => EIO }, { dsync => EIO }) {
    my ($name) = %{$fault};
    my @cold = cold(40);
    my @known = cold(1);
    $shim->set(%{$fault}, delay_ms => 300);
    my (%seen, @list);
    for my $round (1 .. 4) {
        my @c = map {
            request($t->connection, "POST /batch/$name/$round/$_ HTTP/1.1\r\n"
                . "Host: localhost\r\nX-Hook-Secret: $secret\r\n"
                . "Content-Length: 0\r\n\r\n")
        } 1 .. 3;
        my $end = time + 1;
        while (@cold && time < $end) {
            $seen{ (statuses($cold[0]))[0] }++;
            shift @cold if rand > 0.9;
            my $r = $t->call('GET', '/api/hooks?limit=1000');
            push @list, $r->{body}
                if $r->{status} != 503 && $r->{body} !~ /\Q$known[0]\E"/;
            push @list, $r->{status} if $r->{status} !~ /^(?:200|503)$/;
        }
        $seen{"handshake $_"}++
            for grep { $_ != 503 } map { response($_)->{status} } @c;
    }
    delete $seen{503};
    is join(' ', keys %seen), 200, "$name fails: secrets verify";
    is "@list", '', 'no listing leaves one out';
    $shim->set;
    works("$name fails");
}

# one line of a cause a second, however many ask

$shim->set(write => EIO);
news();
my $start = time;
my $asked = 0;
while (time < $start + 2.5) {
    refused() or fail('a handshake is refused');
    $asked++;
}
my @lines = grep {/\[crit\]/} split /\n/, news();
cmp_ok $asked, '>', 20, 'many handshakes';
cmp_ok scalar @lines, '<=', 4, 'few lines' or diag join "\n", @lines;
cmp_ok scalar @lines, '>=', 1, 'but one';
$shim->set;
works('a failed write');

rename $state, "$state.away" or die $!;
$start = time;
refused() while time < $start + 2.5;
@lines = grep {/\[crit\]/} split /\n/, news();
cmp_ok scalar @lines, '<=', 4, 'few lines of a directory that is gone'
    or diag join "\n", @lines;
cmp_ok scalar @lines, '>=', 1, 'but one';
rename "$state.away", $state or die $!;
works('a directory that was gone');

# a file system that turns read-only

SKIP: {
    skip 'no mounts here', 1 if $>;
    for my $fault ({ write => EROFS }, { dsync => EROFS }) {
        my ($name) = %{$fault};
        my @cold = cold(30);
        system("mount --bind $state $state && "
            . "mount -o remount,bind,ro $state 2>/dev/null") == 0
            or skip 'no mounts here', 1;
        $shim->set(%{$fault});
        ok refused(), "read-only at a $name: a handshake is refused";
        ok wait_for(sub {
            refused() && (statuses($cold[0]))[0] == 200
        }), 'secrets verify';
        my @s = map { refused(); statuses($_) } @cold;
        is scalar(grep { $_ == 200 } @s), 30, 'all of them';
        is $t->call('GET', '/api/hooks')->{status}, 200, 'the API as well';
        like news(), qr/\[crit\].*"\Q$state\E".*Read-only.*; mount/,
            'the log says why, and the way out';
        ok $t->reload, 'a reload';
        my @warm = splice @cold, 0, 10;
        is scalar(grep { $_ == 200 } statuses(@warm)), 10, 'secrets verify';
        is $t->deliver('/none', $secret, 'x')->{status}, 403,
            'and unknown ones are unknown';
        ok refused(), 'handshakes are refused';
        my $way = qr/\[crit\].*"\Q$state\E".*Read-only.*; mount/;
        like told($way), $way, 'the log says why, and the way out';
        my @later = map { refused(); statuses($_) } @cold;
        is scalar(grep { $_ == 200 } @later), 20, 'and nothing else';
        $shim->set;
        system 'umount', '-l', $state;
        works("read-only at a $name");
        is scalar(grep { $_ == 200 } statuses(@warm, @cold)), 30,
            'nothing is lost';
    }
}

# a directory that is given to somebody else; the way out is followed

SKIP: {
    skip 'only root can give files away', 1 if $>;
    for my $what ('-R', '--') {
        my @cold = cold(10);
        system 'chown', $what, 'root:root', $state;
        ok refused(), "chown $what: a handshake is refused";
        is scalar(grep { $_ == 200 } statuses(@cold)), 10, 'secrets verify';
        my $way = qr/\[crit\].*"\Q$state\E"\ cannot\ be\ written:
            \ Permission\ denied;\ chown\ the\ directory\ and\ its\ files/x;
        my $log = told($way);
        like $log, $way, 'the log says why, and the way out';
        unlike $log, qr/replaced|removed/, 'and nothing of a replacement';
        system 'chown', '-R', $user, $state;
        works("chown $what");
        is scalar(grep { $_ == 200 } statuses(@cold)), 10, 'nothing is lost';
    }
}

$t->end;

done_testing;
