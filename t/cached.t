# Tests for what the zone holds over commits: a key that nobody has changed
# is not looked up again, and one that somebody else has changed is.

use strict;
use warnings;

use lib 't/lib';

use JSON::PP qw(decode_json);
use Test::More;

use Receiver qw(raw request response sign wait_for);

my $body   = '{"events":[{"action":"changed"}]}';
my $secret = 'a-secret-of-printable-text-0123456789';
my $n      = 0;

my @option = (server => 'location /api { asana_hook_api hooks write=on; }');
my $one    = Receiver->new(@option, workers => 2);
my $two    = Receiver->new(@option);

# Two instances on one store.

$one->app->run;
$two->app->run($two->conf =~ s{state=\S+}{state=$one->{dir}/state}r);

sub store { return decode_json($_[0]->call('GET', '/api/')->{body})->{store} }

# Deliveries note their time, which is one commit more.

sub quiet {
    my ($commits, $same) = (-1, 0);
    wait_for(sub {
        my $now = store($one)->{commits} + store($two)->{commits};
        $same = $now == $commits ? $same + 1 : 0;
        $commits = $now;
        return $same > 10;
    });
    return;
}

sub deliver {
    my ($t, $uri) = @_;
    return $t->deliver($uri, $secret, $body)->{status};
}

# How many look-ups a delivery to each of the keys needs.

sub looked {
    my ($t, @uris) = @_;
    my $before = store($t)->{lookups};
    is deliver($t, $_), 200, "a delivery to $_" for @uris;
    return store($t)->{lookups} - $before;
}

sub enrolls {
    my ($t) = @_;
    my $uri = '/new/' . $n++;
    is $t->handshake($uri, $secret)->{status}, 200, "a handshake: $uri";
    return;
}

my @known = map {"/known/$_"} 1 .. 20;
is $one->handshake($_, $secret)->{status}, 200, "a handshake: $_" for @known;
for (1 .. 3) {
    deliver($one, $_) for @known;
    quiet();
}

# commits of its own

is looked($one, @known), 0, 'what was read stays';
enrolls($one) for 1 .. 5;
quiet();
is looked($one, @known), 0, 'also while other keys are changed';
is $one->call('DELETE', '/api/hooks?key=localhost/known/1')->{status}, 204,
    'one is revoked';
is deliver($one, '/known/1'), 403, 'and gone';
shift @known;
quiet();
cmp_ok looked($one, @known), '<=', 1, 'the others stay';

# commits of somebody else: all is read anew, once

is $two->call('DELETE', '/api/hooks?key=localhost/known/2')->{status}, 204,
    'another instance revokes one';
is deliver($one, '/known/2'), 403, 'it is gone here as well';
shift @known;
is looked($one, @known), scalar @known, 'all of them are looked up';
quiet();

# one that is followed by a commit of its own

looked($one, @known);
quiet();
for my $round (1 .. 20) {
    my $uri = '/shared/' . $round;
    is $one->handshake($uri, $secret)->{status}, 200, "a handshake: $uri";
    deliver($one, $uri) for 1 .. 2;
    quiet() if $round % 5 == 0;
    is $two->call('DELETE', "/api/hooks?key=localhost$uri")->{status}, 204,
        'the other one revokes it';
    enrolls($one);
    is deliver($one, $uri), 403, 'an own commit does not hide that';
}

# a storm: changes and deliveries on both of them at once, and whatever was
# revoked before stays so

my $seed = $ENV{ASANA_HOOK_SEED} || time ^ $$;
srand $seed;

sub at_once {
    my @s = map { request($_->[0]->connection, $_->[1]) } @_;
    return map { response($_)->{status} } @s;
}

sub delivery {
    my ($uri, $text) = @_;
    return raw($uri, 'X-Hook-Signature: ' . sign($text, $body), $body);
}

my (%held, %gone, @wrong);
for my $round (1 .. 120) {
    my (@ask, @want);
    for my $uri (map {"/storm/$_"} grep { rand() < .4 } 1 .. 12) {
        my $text = delete $held{$uri};
        push @ask, [($one, $two)[rand 2], $text
            ? "DELETE /api/hooks?key=localhost$uri HTTP/1.1\r\n"
                . "Host: localhost\r\nConnection: close\r\n\r\n"
            : raw($uri, 'X-Hook-Secret: ' . ($held{$uri} = $secret . $n++),
                '')];
        push @want, $text ? 204 : 200;
        $gone{$uri} = $text || $gone{$uri};
        push @ask, [($one, $two)[rand 2], delivery($uri, $text)] if $text;
        push @want, '200|403' if $text;
    }
    my @sure = rand() < .5 ? () : grep { $gone{$_} } sort keys %gone;
    my @got = at_once(@ask);
    for my $uri (@sure) {
        for my $t ($one, $two) {
            push @got, at_once([$t, delivery($uri, $gone{$uri})],
                $held{$uri} ? [$t, delivery($uri, $held{$uri})] : ());
            push @want, 403, $held{$uri} ? 200 : ();
        }
    }
    push @wrong, grep { $got[$_] !~ /^(?:$want[$_])$/ } 0 .. $#want;
}
is scalar(@wrong), 0, "a storm: no wrong answer (seed $seed)";

# one that a handshake for another key pushes out is not held any more

my $small = Receiver->new(
    zone     => 'max_size=1m',
    location => 'asana_hook_enroll confirm;',
    server   => 'location /api { asana_hook_api hooks; }'
)->app->run;
is $small->handshake("/pending/$_", $secret)->{status}, 200, "pending: $_"
    for 1, 1 .. 65;
is $small->handshake('/pending/1', $secret)->{status}, 200, 'the first again';
like $small->call('GET', '/api/hooks?limit=100')->{body},
    qr{"localhost/pending/1"}, 'it is in the store';

$_->end for $one, $two, $small;
done_testing;
