# Tests for docs/policies.md: each recipe does what its table says.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(port request response);

my $asana   = 'asana-0123456789-secret-0123456789';
my $planted = 'stranger-0123456789-secret-0123456789';
my $body    = '{"events":[{"action":"changed"}]}';
my $uri     = '/receive-webhook/1200';
my $key     = "hooks.example.com$uri";

my (%recipe, $title);
open my $doc, '<', 'docs/policies.md' or die $!;
while (my $line = <$doc>) {
    $title = $1 if $line =~ /^## (.*)/;
    next if $line !~ /^```nginx/;
    while (defined($line = <$doc>) && $line !~ /^```/) {
        $recipe{$title} .= $line;
    }
}
close $doc;

# An nginx with the recipe, but for ports and paths.

sub start {
    my ($name, %more) = @_;
    my $t = Receiver->new(%{ delete $more{receiver} || {} })->app;
    $t->{api} = "$t->{dir}/api.sock";
    my %place = (
        '/var/lib/nginx/asana_hook'    => "$t->{dir}/state",
        '/var/log/nginx/hooks.access'  => "$t->{dir}/hooks.access",
        '/run/asana-hook/api.sock'     => $t->{api},
        'listen       80;'             => "listen 127.0.0.1:$t->{port};",
        '127.0.0.1:8000'               => "127.0.0.1:$t->{app_port}",
        %more
    );
    my $text = $recipe{$name} or BAIL_OUT("no recipe for $name");
    for my $from (keys %place) {
        $text =~ s/\Q$from\E/$place{$from}/g;
    }
    my $http = $t->globals_http;
    $http =~ s/ hook([ ;])/ other$1/g;
    my $conf = $t->globals . "http {\n$http$text\n}\n";
    return ($t, $conf);
}

sub tool {
    my ($t, $input, @args) = @_;
    open my $in, '|-', "$^X tools/asana-hook --unix $t->{api} @args "
        . ">$t->{dir}/said 2>&1" or die $!;
    print {$in} $input;
    close $in;
    return $? >> 8;
}

sub shake {
    my ($t, $secret, $args) = @_;
    return $t->handshake($uri . ($args || ''), $secret)->{status};
}

# A delivery that says that it is verified; what the application got of it.

sub deliver {
    my ($t, $secret, $to) = @_;
    $t->seen;
    my $r = $t->deliver($to || $uri, $secret, $body,
        'X-Asana-Hook-Status: VERIFIED');
    my @words = map { $_->[0] =~ /^X-Asana-Hook-Status: (\S+)/mg } $t->seen;
    return join ' ', $r->{status}, @words;
}

sub bypass {
    my ($t, $to) = @_;
    $t->seen;
    $t->call('GET', $to || $uri, ['X-Asana-Hook-Status: VERIFIED']);
    my @words = map { $_->[0] =~ /^X-Asana-Hook-Status: (\S+)/mg } $t->seen;
    is "@words", 'UNCHECKED', 'what a client says of itself is overwritten';
    return;
}

{
    my ($t, $conf) = start('first');
    $t->run($conf);
    is shake($t, $asana), 200, 'first: Asana comes first';
    is shake($t, $planted), 403, 'a stranger does not';
    is deliver($t, $asana), '200 VERIFIED', 'its deliveries pass';
    is deliver($t, $planted), '403', 'others do not';
    bypass($t);

    for my $other ("$uri/", "$uri%0A", "$uri%00", uc $uri, $uri =~ s{/1}{/01}r) {
        isnt $t->handshake($other, $planted)->{status}, 200,
            "another spelling: $other";
        isnt deliver($t, $asana, $other), '200 VERIFIED', 'is not the webhook';
    }

    $conf =~ s/(asana_hook +hooks;)/$1 asana_hook_enroll off;/;
    $t->reload($conf);
    is $t->handshake("$uri/0", $planted)->{status}, 404, 'another URL';
    is $t->handshake('/receive-webhook/1201', $planted)->{status}, 403,
        'with "off" nobody plants anything';
    is deliver($t, $asana), '200 VERIFIED', 'and deliveries pass';
    $t->secrecy($asana, $planted);
    $t->end;

    ($t, $conf) = start('first');
    $conf =~ s/(asana_hook +hooks;)/$1 asana_hook_enroll open;/;
    $t->run($conf);
    is shake($t, $_), 200, 'open: any secret' for $asana, $planted;
    is deliver($t, $_), '200 VERIFIED', 'verifies' for $asana, $planted;
    $t->end;
}

{
    my ($t, $conf) = start('A token in the URL');
    $t->run($conf);
    ($uri, my $numbered) = ('/receive-webhook', $uri);
    my ($token) = $recipe{'A token in the URL'} =~ /^ +([\da-f]{32}) +open;/m;
    is shake($t, $planted), 403, 'token: a stranger has none';
    is shake($t, $planted, "?token=$asana"), 403, 'or a wrong one';
    is shake($t, $asana, "?token=$token"), 200, 'Asana has it';
    is shake($t, "$asana-2", "?token=$token"), 200, 'more than once';
    is deliver($t, $asana, "$uri?token=$token"), '200 VERIFIED',
        'its deliveries pass';
    is deliver($t, $planted, "$uri?token=$token"), '403', 'others do not';
    bypass($t, "$uri?token=$token");
    my $log = $t->slurp('hooks.access.log');
    like $log, qr/ POST \/receive-webhook 200 HANDSHAKE [\da-f]{16}$/m,
        'the access log shows the request';
    ok index($log, $token) < 0, 'but not the token';
    $uri = $numbered;
    $t->end;
}

{
    my ($t, $conf) = start('confirm');
    $t->run($conf);
    is shake($t, $planted), 200, 'confirm: a stranger gets an answer';
    is shake($t, $asana), 200, 'as does Asana';
    is deliver($t, $planted), '503', 'nothing passes';
    is deliver($t, $asana), '503', 'until it is confirmed';
    is tool($t, "$asana\n", 'put', $key), 0, 'put confirms';
    is deliver($t, $asana), '200 VERIFIED', 'what Asana named';
    is deliver($t, $planted), '503', 'and nothing else';
    bypass($t);
    $t->end;
}

{
    my ($t, $conf) = start('off');
    $t->run($conf);
    is shake($t, $asana), 403, 'off: no handshake is accepted';
    is tool($t, $asana, 'put', $key), 0, 'put provisions';
    is deliver($t, $asana), '200 VERIFIED', 'what then verifies';
    is shake($t, $asana), 200, 'and is answered';
    bypass($t);
    $conf =~ s/(asana_hook +hooks;)/$1 asana_hook_dry_run on;/;
    $t->reload($conf);
    is deliver($t, $planted), '200 INVALID_DRY_RUN', 'a dry run lets pass';
    $t->end;
}

SKIP: {
    my ($sim, $gateway) = (port(), port());
    my ($t, $conf) = start(
        'gateway',
        receiver => { expect => qr/\[emerg\].*asana_hook/ },
        '127.0.0.1:8081' => "127.0.0.1:$gateway",
        'https://app.asana.com' => "http://127.0.0.1:$sim"
    );
    $t->write_file('asana-token.conf', 'set $asana_token "sesame";');
    $conf =~ s/proxy_ssl_trusted_certificate[^;]*;//;
    $conf =~ s/proxy_ssl_verify +on;//;
    my ($code, $said) = $t->test_config($conf);
    if ($code && $said =~ /asana_hook_gateway|asana_hook_enroll gateway/) {
        $t->end;
        skip 'no gateway in this module', 1;
    }
    my $pid = open my $out, '-|', $^X, 'tools/asana-sim', '--listen',
        "127.0.0.1:$sim", '--allow-local', '--token', 'sesame' or die $!;
    push @{ $t->{pids} }, $pid;
    like scalar(<$out>), qr/listening/, 'gateway: an Asana';
    $t->run($conf);

    is shake($t, $planted), 403, 'a stranger is refused';
    my $s    = $t->connection($gateway);
    my $form = "resource=1200&target=http://127.0.0.1:$t->{port}$uri";
    request($s, join "\r\n", 'POST /asana/webhooks HTTP/1.1', 'Host: a',
        'Content-Type: application/x-www-form-urlencoded',
        'Content-Length: ' . length $form, 'Connection: close', '', $form);
    my $r = response($s, 20);
    close $s;
    is $r->{status}, 201, 'the create call passes';
    my ($secret) = $r->{body} =~ /"X-Hook-Secret": *"(\w+)"/;
    is deliver($t, $secret), '200 VERIFIED', 'and deliveries verify';
    is shake($t, $planted), 403, 'a stranger is refused again';
    bypass($t);
    $t->end;
}

done_testing;
