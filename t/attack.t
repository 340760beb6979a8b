# Tests for take-overs: what a stranger who knows the URL gets, by policy.

use strict;
use warnings;

use lib 't/lib';

use IO::Socket::INET;
use Test::More;

use Receiver qw(port request response wait_for);

my $genuine = 'genuine-' . 'g' x 40;
my @policies = qw(first open confirm assisted gateway off token);

# yes/no: do the stranger's events reach the application; does the genuine
# webhook work in the end; "one": one of both and never the other as well

my %expected = (
    later => {
        first    => 'no yes',
        open     => 'yes yes',
        confirm  => 'no yes',
        assisted => 'no yes',
        gateway  => 'no yes',
        off      => 'no yes',
        token    => 'no yes'
    },
    before => {
        first    => 'yes no',
        open     => 'yes yes',
        confirm  => 'no yes',
        assisted => 'no yes',
        gateway  => 'no yes',
        off      => 'no yes',
        token    => 'no yes'
    },
    flood => {
        first    => 'yes no',
        open     => 'yes no',
        confirm  => 'no yes',
        assisted => 'no yes',
        gateway  => 'no yes',
        off      => 'no yes',
        token    => 'no yes'
    },
    during => {
        first    => 'no yes',
        open     => 'yes yes',
        confirm  => 'no yes',
        assisted => 'no no',
        gateway  => 'no no',
        off      => 'no yes',
        token    => 'no yes'
    },
    race => {
        first    => 'one one',
        open     => 'yes yes',
        confirm  => 'no yes',
        assisted => 'no yes',
        gateway  => 'no yes',
        off      => 'no yes',
        token    => 'no yes'
    },
    own => {
        first    => 'yes no',
        open     => 'yes yes',
        confirm  => 'no yes',
        assisted => 'no yes',
        gateway  => 'no yes',
        off      => 'no yes',
        token    => 'no yes'
    },
    reach => {
        first    => 'yes no',
        open     => 'yes yes',
        confirm  => 'no yes',
        assisted => 'yes yes',
        gateway  => 'yes yes',
        off      => 'no yes',
        token    => 'no yes'
    },
    known => {
        first    => 'yes no',
        open     => 'yes yes',
        confirm  => 'no yes',
        assisted => 'no yes',
        gateway  => 'no yes',
        off      => 'no yes',
        token    => 'yes no'
    },
    inactive => {
        first    => 'yes no',
        open     => 'yes yes',
        confirm  => 'no yes',
        assisted => 'no yes',
        gateway  => 'no yes',
        off      => 'no yes',
        token    => 'no yes'
    },
    replay => { map { $_ => 'yes yes' } @policies }
);
my @attacks = qw(later before flood during race own reach known
    inactive replay);

my %location = (
    (map { $_ => "asana_hook_enroll $_;" } @policies),
    assisted => 'asana_hook_enroll confirm;',
    token    => 'asana_hook_enroll $enroll;'
);

my $asana = port();
my $listen = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1',
    LocalPort => $asana,
    Listen    => 16,
    ReuseAddr => 1
) or die "listen: $!";

my ($t, $policy, $n, $racing);

sub stranger { my ($i) = @_; return sprintf 'stranger-%02d-%s', $i || 1,
        's' x 40 }

sub uri { return "/hook/$n" }

sub plant { return map { $t->handshake(uri(), stranger($_)) } 1 .. $_[0] }

sub gateway { return $policy eq 'assisted' || $policy eq 'gateway' }

# a create call through nginx, with what happens before Asana answers

sub through {
    my ($secret, $in_flight) = @_;
    my $s = $t->connection;
    request($s, "POST /create HTTP/1.1\r\nHost: localhost\r\n"
            . "Content-Length: 1\r\n\r\nx");
    my $c = $listen->accept;
    Receiver::read_request($c);
    $in_flight->();
    my $body = qq({"X-Hook-Secret":"$secret"});
    print {$c} "HTTP/1.1 201 Created\r\nContent-Length: "
        . length($body) . "\r\n\r\n$body";
    close $c;
    response($s);
    return;
}

# Asana's handshake, and perhaps the stranger's at the same moment

sub enroll {
    my ($uri) = @_;
    return $t->handshake($uri, $genuine) if !$racing;
    my @requests = (
        Receiver::raw($uri, "X-Hook-Secret: $genuine", ''),
        Receiver::raw(uri(), 'X-Hook-Secret: ' . stranger(1), '')
    );
    @requests = reverse @requests if $racing++ % 2;
    my @s = map { $t->connection } @requests;
    request($s[$_], $requests[$_]) for 0, 1;
    response($_) for @s;
    return;
}

# Asana's create call by the way that the policy asks for; the code runs while
# it is in flight, after the handshake

sub create {
    my ($meanwhile) = @_;
    my $uri = uri();
    if (gateway()) {
        through($genuine, sub {
            enroll($uri);
            $meanwhile->() if $meanwhile;
        });
        return;
    }
    enroll($uri . ($policy eq 'token' ? '?token=9f3a' : ''))
        if $policy ne 'off';
    plant(1) if $policy eq 'off' && $racing;
    $meanwhile->() if $meanwhile;
    $t->call('PUT', "/api/hooks?key=localhost$uri",
        ["X-Hook-Secret: $genuine"])
        if $policy eq 'off' || $policy eq 'confirm';
    return;
}

sub reaches {
    my ($secret) = @_;
    $t->seen;
    $t->deliver(uri(), $secret, '{"events":[{"action":"x"}]}');
    return $t->seen ? 'yes' : 'no';
}

sub outcome {
    my $forged = grep { reaches(stranger($_)) eq 'yes' } 1 .. 3;
    return ($forged ? 'yes' : 'no') . ' ' . reaches($genuine);
}

my %attack = (
    later  => sub { create(); plant(1) },
    before => sub { plant(1); create() },
    flood  => sub { plant(20); create() },
    during => sub {
        my $many = $policy eq 'open' ? 1 : 20;
        create(sub { plant($many) });
    },
    inactive => sub {
        create();
        wait_for(sub {
            $t->call('GET', "/api/hooks?key=localhost@{[uri()]}")->{body}
                =~ /inactive/;
        });
        plant(1);
    },
    race  => sub { $racing ||= 1; create() },

    # Asana itself brings him a secret, by a create call of his own
    own   => sub {
        $t->call('POST', uri(), ['X-Hook-Secret: ' . stranger(1)], '{}');
        create();
    },

    # and if he reaches the gateway, it takes his create call for ours
    reach => sub {
        if (gateway()) {
            through(stranger(1), sub { plant(1) });
        } else {
            plant(1);
        }
        create();
    },
    known => sub {
        $t->handshake(uri() . '?token=9f3a', stranger(1));
        create();
    },
    replay => sub { create() }
);

# over several rounds, for who comes first is a matter of chance

sub race {
    my %seen;
    for (1 .. 8) {
        $n++;
        $attack{race}->();
        $seen{ outcome() } = 1;
    }
    $racing = 0;
    my @seen = sort keys %seen;
    return "@seen" =~ /^(?:no yes|yes no|no yes yes no)$/
        && $policy eq 'first' ? 'one one' : join ', ', @seen;
}

my %got;
for (@policies) {
    $policy = $_;
    $t = Receiver->new(
        workers  => 2,
        zone     => 'max_secrets=4 inactive=2s',
        http     => 'map $arg_token $enroll { default off; 9f3a first; }',
        location => $location{$policy},
        server   => 'location /api { asana_hook_api hooks write=on; } '
            . 'location = /create { asana_hook_gateway hooks; '
            . "proxy_pass http://127.0.0.1:$asana; }"
    )->app->run;
    for my $attack (@attacks) {
        $n++;
        $attack{$attack}->() if $attack ne 'race';
        $got{$attack}{$policy} = $attack eq 'race' ? race()
            : $attack eq 'replay'
            ? reaches($genuine) . ' ' . reaches($genuine) : outcome();
        is $got{$attack}{$policy}, $expected{$attack}{$policy},
            "$attack, $policy";
    }
    $t->end;
}

diag 'what the stranger\'s events reach / whether the genuine webhook works';
diag sprintf '%-9s' . ' %-9s' x @policies, '', @policies;
for my $attack (@attacks) {
    diag sprintf '%-9s' . ' %-9s' x @policies, $attack,
        map { my $cell = $got{$attack}{$_}; $cell =~ tr/ /\//; $cell }
        @policies;
}

done_testing;
