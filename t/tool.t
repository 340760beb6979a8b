# Tests for tools/asana-hook: every command and exit code, odd keys, and that
# a secret is seen nowhere.

use strict;
use warnings;

use lib 't/lib';

use Digest::SHA qw(sha256_hex);
use IPC::Open3 qw(open3);
use JSON::PP qw(decode_json);
use Test::More;

use Receiver qw(port secret_id version wait_for);

my $t    = Receiver->new;
my $api  = port();
my $sock = "$t->{dir}/api.sock";
$t->{http} = <<"END";
    server {
        listen 127.0.0.1:$api;
        listen unix:$sock;
        keepalive_requests 2000;
        location / { return 404; }
        location /asana/ { asana_hook_api hooks write=on; }
        location /read/ { asana_hook_api hooks; }
        location /denied/ { deny all; asana_hook_api hooks; }
        location /broken/ {
            default_type application/json;
            return 200 '{"hooks":[],}';
        }
        location /text/ { return 200 'hello'; }
        location /failing/ { return 500; }
        location /hostile/ {
            default_type application/json;
            return 404 '{"error":"\\u001b[2Jgone\\u009b1m"}';
        }
        location /raw/ {
            default_type application/json;
            return 200 '{"hooks":[{"key":"RAW","ref":"a","secrets":[]}],"next":null}';
        }
        location = /raw/events {
            default_type application/json;
            return 200 '{"events":[{"time":"RAW","word":"RAW","reason":"RAW",
                "key":"RAW","ref":"RAW","cut":true,"id":null,"address":"RAW"}]}';
        }
        location = /raw/ {
            default_type application/json;
            return 200
                '{"zone":"RAW","secrets":[],"answers":{"RAW":1}}\\n';
        }
    }
END
my $raw = "a\x7f\xc2\x9b1m\xe2\x80\xae\xe2\x81\xa6\xd8\x9c\xe2\x80\xa8\xc3\xa9";
$t->{http} =~ s/RAW/$raw/g;
$t->{location} = 'asana_hook_enroll confirm;';
$t->app->run;

my $base   = "http://127.0.0.1:$api";
my @url    = ('--url', "$base/asana/");
my @unix   = ('--unix', "$sock:/asana");
my $secret = 'tool-0123456789-secret-0123456789';
my $other  = 'tool-9876543210-secret-9876543210';

my @printed;

delete @ENV{qw(ASANA_HOOK_API LC_ALL LC_CTYPE LANG)};

# Runs the tool with text on its standard input; returns what it printed, its
# errors and its exit code.

sub tool {
    my ($input, @args) = @_;
    my $pid = open3(my $in, my $out, undef, $^X, 'tools/asana-hook', @args);
    binmode $in;
    local $SIG{PIPE} = 'IGNORE';
    print {$in} $input if defined $input;
    close $in;
    local $/ = undef;
    my $text = <$out>;
    waitpid $pid, 0;
    my $code = $? >> 8;
    $text = '' unless defined $text;
    push @printed, $text;
    return ($code, $text);
}



sub runs {
    my ($code, $pattern, $name, @args) = @_;
    my ($got, $text) = tool(undef, @args);
    is $got, $code, "$name: $code" or diag $text;
    like $text, $pattern, 'and what it says';
    return $text;
}

# use

runs 0, qr/^usage: asana-hook.*Exit code:/s, '--help', '--help';
runs 2, qr/^asana-hook: no command/,       'no command', @url;
runs 2, qr/unknown command "drop"/,        'an unknown command', @url, 'drop';
runs 2, qr/unknown option: nosuch/,        'an unknown option', '--nosuch';
runs 2, qr/wrong number of arguments/,     'no key', @url, 'show';
runs 2, qr/wrong number of arguments/,     'two keys', @url, 'show', 'a', 'b';
runs 2, qr/where is the API\?/,            'no place', 'list';
runs 2, qr/exclude each other/,            'two places', @url, @unix, 'list';
runs 2, qr/is neither http/,               'https', '--url', 'https://a/', 'list';
runs 2, qr/cannot have/, 'a bad prefix', '--url', "$base/a b/", 'list';
runs 2, qr/an empty key/,                  'an empty key', @url, 'show', '';
runs 2, qr/bad percent-encoding/,          'a bad ref', @url, 'show', 'ref:%1';
runs 2, qr/16 hex digits/, 'a bad id', @url, 'revoke', 'a', 'xyz';
runs 2, qr/SECONDS is/,                    'watch 0', @url, 'watch', 0;
runs 2, qr/N is 1 to 1000/, "events $_", @url, 'events', $_
    for 0, 1001, 'x';
runs 2, qr/--timeout/, 'no time', @url, '--timeout', 0, 'list';
runs 2, qr/1 to 480 bytes \(400\)/, 'a long key', @url, 'show', 'a' x 481;

is runs(0, qr/^usage/, 'help', 'help'), runs(0, qr/^usage/, 'as --help', '--help'),
    'says the same';

# The completion of bash has what --help has.  t/docs.t compares --help with the
# man page, and with what the program takes.

my $help = qx(tools/asana-hook --help);
my %commands = map { $_ => 1 } $help =~ /^  ([a-z]+) /mg;
delete $commands{'asana-hook'};
my @options = do { my %o = map { $_ => 1 } $help =~ /(--[a-z]+)/g; sort keys %o };
sub completed {
    my (@words) = @_;
    my $got = qx(bash -c '. share/bash-completion/asana-hook
        COMP_WORDS=(asana-hook @words) COMP_CWORD=\$(( \${#COMP_WORDS[@]} - 1 ))
        _asana_hook; printf "%s " \$(printf "%s\n" "\${COMPREPLY[@]}" | sort)' 2>&1);
    return $got =~ s/ +\z//r;
}
is completed('""'), join(' ', sort 'help', keys %commands), 'completion: commands';
is completed('--json', 're'), 'reseal revoke', 'behind an option';
is completed('--'), "@options", 'options';
is completed('list', '--health', 'd'), 'dead', 'health';
is completed('show', '""'), '', 'no command behind a command';

is runs(0, qr/./, '--version', '--version'), 'asana-hook ' . version() . "\n",
    'is that of the module';
runs 2, qr/--health is pending/, 'a bad health', @url, 'list', '--health', 'x';
runs 2, qr/either a key or --health/, 'revoke of nothing', @url, 'revoke';

# nobody has asked before

runs 0, qr/^health +not counted yet$/m, 'stats before the first count', @url,
    'stats';

# an empty zone, over each way

my $head = qr/^KEY +ID +STATE +HEALTH +LAST VERIFIED +LAST CODE +DELETED AT +WEBHOOK +DELIVERIES\n/;
runs 0, qr/$head\z/, 'list over TCP', @url, 'list';
runs 0, qr/$head\z/, 'list over a socket', @unix, 'list';
{
    local $ENV{ASANA_HOOK_API} = "$base/asana";
    runs 0, qr/$head/, 'list by the environment', 'list';
    $ENV{ASANA_HOOK_API} = "unix:$sock:/asana/";
    runs 0, qr/$head/, 'list by the environment, a socket', 'list';
    runs 3, qr/cannot connect/, 'an option goes before it', '--unix',
        "$t->{dir}/nosuch", 'list';
}
is runs(0, qr/./, 'list --json', @url, '--json', 'list'),
    qq({"hooks":[],"next":null}\n), 'in the form of the API';
runs 1, qr/^asana-hook: no secret is held for this key \(404\)$/,
    'show of none', @url, 'show', 'localhost/a';
runs 1, qr/no such secret is held \(404\)/, 'revoke of none', @url, 'revoke',
    'localhost/a';

# a secret is provisioned

sub put {
    my ($code, $pattern, $name, $input, @args) = @_;
    my ($got, $text) = tool($input, @args);
    is $got, $code, "put $name: $code" or diag $text;
    like $text, $pattern, 'and what it says';
    return;
}

put 0, qr/^provisioned$/, 'new', "$secret\n", @url, 'put', 'localhost/a';
put 0, qr/^confirmed$/, 'again, without a newline', $secret, @unix, 'put',
    'localhost/a';
put 2, qr/16 to 255 visible/, 'of two newlines', "$secret\n\n", @url, 'put',
    'localhost/a';
put 2, qr/16 to 255 visible/, 'of a short one', "short\n", @url, 'put',
    'localhost/a';
put 2, qr/16 to 255 visible/, 'of nothing', '', @url, 'put', 'localhost/a';
put 2, qr/16 to 255 visible/, 'of two headers', "$secret\r\nX-A: b", @url,
    'put', 'localhost/a';
# what stands around a secret where it is copied from

my $bare = qr/give the secret alone/;
for my $text (
    qq("$secret"),             qq("$secret"\n),
    qq("$secret",\n),          qq("$secret",\r\n),
    qq('$secret'),             qq("$secret),
    qq($secret"),              qq($secret",),
    qq("X-Hook-Secret":"$secret"), qq("X-Hook-Secret": "$secret",),
    qq({"X-Hook-Secret":"$secret"}), qq({ "data": {}, "x": "$secret" }),
    qq(X-Hook-Secret:$secret), qq(X-Hook-Secret: $secret\r\n),
    qq(x-hook-secret:$secret), qq(X-Hook-Secret=$secret),
    qq( "$secret"\n)
    )
{
    my $shown = $text =~ s/\Q$secret\E/SECRET/r;
    $shown =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ge;
    put 2, $bare, "of $shown", $text, @url, 'put', 'localhost/quoted';
}
put 2, qr/16 to 255 visible/, 'of a blank around', " $secret \n", @url, 'put',
    'localhost/quoted';
put 0, qr/^provisioned$/, 'with CR and LF', "$secret\r\n", @url, 'put',
    'localhost/quoted';
runs 0, qr/@{[secret_id($secret)]}/, 'and is that very one', @url, 'show',
    'localhost/quoted';
runs 0, qr/^revoked$/, 'revoke', @url, 'revoke', 'localhost/quoted';

put 1, qr/not allowed here.*write=on.*\(405\)/, 'where the API only reads',
    $secret, '--url', "$base/read/", 'put', 'localhost/a';
is $t->deliver('/a', $secret, '{"events":[{}]}')->{status}, 200,
    'its delivery passes';
$t->words;

my $id  = secret_id($secret);
my $row = qr/^localhost\/a +$id +active +ok +\S+Z +200 +- +- +1$/m;
runs 0, $row, 'show', @url, 'show', 'localhost/a';
runs 0, $row, 'list', @unix, 'list';
is decode_json(runs(0, qr/./, 'show --json', @url, '--json', 'show',
    'localhost/a'))->{secrets}[0]{id}, $id, 'in the form of the API';

# a pending one is confirmed, and revoked by its id

is $t->handshake('/a', $other)->{status}, 200, 'a handshake';
runs 0, qr/^localhost\/a +@{[secret_id($other)]} +pending +pending +- +- +- +- +0$/m,
    'show of a pending one', @url, 'show', 'localhost/a';
is $t->handshake('/only', $other)->{status}, 200, 'one of its own';
my $pending = qr/^localhost\/only +@{[secret_id($other)]} +pending +pending /m;
runs 0, $pending, 'list by health', @url, 'list', '--health', 'pending';
is_deeply decode_json(runs(0, qr/./, 'list by health --json', @url, '--json',
        'list', '--health', 'dead'))->{hooks}, [], 'none is dead';
{
    my ($got, $text) = tool("no\n", @url, 'revoke', '--health', 'pending');
    is $got, 1, 'revoke by health asks';
    like $text, $pending, 'shows them';
    like $text, qr/revoke these 1, for good\?.*nothing was revoked/s, 'first';
}
runs 0, $pending, 'it is still there', @url, 'show', 'localhost/only';
runs 0, qr/^revoked 1$/m, 'revoke by health', @url, 'revoke', '--health',
    'pending', '--yes';
runs 0, qr/^no secret is pending$/m, 'and again', @url, 'revoke', '--health',
    'pending';
put 0, qr/^confirmed$/, 'confirms it', $other, @url, 'put', 'localhost/a';
is $t->deliver('/a', $other, '{"events":[{}]}')->{status}, 200,
    'its delivery passes';
runs 0, qr/^revoked$/, 'revoke of one', @url, 'revoke', 'localhost/a',
    secret_id($other);
is $t->deliver('/a', $other, '{"events":[{}]}')->{status}, 403, 'it is gone';
is $t->deliver('/a', $secret, '{"events":[{}]}')->{status}, 200,
    'the other is not';
runs 1, qr/\(404\)/, 'revoke of it again', @url, 'revoke', 'localhost/a',
    secret_id($other);
runs 0, qr/^revoked$/, 'revoke of all', @unix, 'revoke', 'localhost/a';
is $t->deliver('/a', $secret, '{"events":[{}]}')->{status}, 403,
    'then none is left';
$t->words(5);

# keys of any bytes

my %odd = (
    "a b"             => 'ref:a%20b',
    "\xff\xfe/x"      => 'ref:%FF%FE%2Fx',
    "\xc3\xa9t\xc3\xa9"           => 'ref:%C3%A9t%C3%A9',
    "a\xe2\x80\xaeb"  => 'ref:a%E2%80%AEb',
    "a\xc2\x9bb"      => 'ref:a%C2%9Bb',
    'a&b=c%41+d#e?f"' => 'a&b=c%41+d#e?f"',
    'ref:a'           => 'ref:ref%3Aa',
    '-x'              => '-x'
);
for my $key (sort keys %odd) {
    my $shown = $odd{$key};
    put 0, qr/^provisioned$/, "of $shown", $secret, @url, 'put', '--', $shown;
    runs 0, qr/^\Q$shown\E +$id /m, 'show', @url, 'show', '--', $shown;
    next if $key =~ /\Aref:/;
    runs 0, qr/^\Q$shown\E +$id /m, 'show by its bytes', @url, 'show', '--',
        $key;
}
put 2, qr/no control characters/, "of $_", $secret, @url, 'put', $_
    for 'ref:a%1B%5B31m%0Ab', 'ref:%00x', 'ref:%7F';
my $text = runs 0, $head, 'list', @url, 'list';
is scalar(grep { $text =~ /^\Q$_\E +$id /m } values %odd), keys %odd,
    'has them all';
unlike $text, qr/[^ -~\n]/, 'and nothing that a terminal would obey';
{
    local $ENV{LC_ALL} = 'C.UTF-8';
    $text = runs 0, qr/^\xc3\xa9t\xc3\xa9 +$id /m, 'list in UTF-8', @url,
        'list';
    like $text, qr/^ref:a%E2%80%AEb /m, 'shows no character that turns text';
    like $text, qr/^ref:a%C2%9Bb /m, 'and no control character';
}
for my $key (sort values %odd) {
    runs 0, qr/^revoked$/, "revoke of $key", @url, 'revoke', '--', $key;
}
runs 0, qr/$head\z/, 'list', @url, 'list';

# more than a page

my $conn = $t->connection($api);
for my $i (1 .. 1003) {
    Receiver::request($conn, "PUT /asana/hooks?key=many%2F$i HTTP/1.1\r\n"
        . "Host: a\r\nX-Hook-Secret: $secret\r\n\r\n");
    Receiver::response($conn)->{status} == 201 or BAIL_OUT('no key');
}
close $conn;
$text = runs 0, $head, 'list of two pages', @url, 'list';
is scalar(() = $text =~ /^many\/\d+ /mg), 1003, 'is whole';
is scalar(() = $text =~ /^KEY/mg),        1,    'with one head';
$text = runs 0, qr/./, 'list --json of them', @url, '--json', 'list';
is scalar(@{ decode_json($text)->{hooks} }), 1003, 'is one document';

# counters

$text = runs 0, qr/^zone +hooks$/m, 'stats', @unix, 'stats';
for my $pattern (qr/^store\.keys +1003$/m, qr/^handshakes\.handshake +2$/m,
    qr/^deliveries\.verified +3$/m, qr/^answers\.success +3$/m,
    qr/^used +[1-9]\d+$/m)
{
    like $text, $pattern, 'counts';
}
is decode_json(runs(0, qr/./, 'stats --json', @unix, '--json', 'stats'))
    ->{deliveries}{verified}, 3, 'in the form of the API';

# events

my $then   = qr/20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ/;
my $titles = qr/TIME +WORD +KEY +SECRET +ADDRESS +REASON\n/;
my $what   = qr/127\.0\.0\.1 +it has no "X-Hook-Signature"/;
is $t->handshake('/pending', $other)->{status}, 200, 'a handshake';
is $t->deliver('/pending', $other, '{"events":[{}]}')->{status}, 503,
    'its secret is pending';
runs 0, qr/^revoked$/, 'and revoked', @url, 'revoke', 'localhost/pending';
for my $uri ('/ok', '/%E2%80%AE%1B%5B31m', '/%FF%C2%9B', '/' . 'l' x 490) {
    is $t->call('POST', $uri, [], '')->{status}, 403, 'an unsigned request';
}
$text = runs 0, qr/\A$titles(?:$then +[A-Z].*\n)+\z/, 'events', @url, 'events';
my @last = split /\n/, $text;
like $last[-4], qr{^$then +UNSIGNED +localhost/ok +- +$what$}, 'the newest last';
like $last[-3], qr/ ref:localhost%2F%E2%80%AE%1B%5B31m +- +$what$/,
    'a key with control characters';
like $last[-2], qr/ ref:localhost%2F%FF%C2%9B +- +$what$/, 'one of odd bytes';
like $last[-1], qr{ localhost/l{300,}\.\.\. +- +$what$}, 'one that is cut';
like $last[-5], qr{ PENDING +localhost/pending +@{[secret_id($other)]} },
    'a secret';
unlike $text, qr/[^ -~\n]/, 'nothing that a terminal would obey';
$text = runs 0, qr/\A$titles/, 'events 1', @unix, 'events', 1;
is scalar(() = $text =~ /\n/g), 2, 'one';
$text = runs 0, qr/./, 'events --json', @url, '--json', 'events', 2;
is_deeply [map { substr $_->{key}, 0, 11 } @{ decode_json($text)->{events} }],
    ['localhost/l', "localhost/\x{fffd}"], 'in the form of the API';
$text = runs 0, qr/\A$titles/, 'events of another server', '--url',
    "$base/raw/", 'events';
unlike $text, qr/[^ -~\n]/, 'nothing that a terminal would obey';

# Runs "watch", kills it by the signal once it has printed the pattern twice.

sub watch {
    my ($pattern, @args) = @_;
    my $pid = open my $out, '-|', $^X, 'tools/asana-hook', @args, 'watch', 1
        or die $!;
    my $text = '';
    wait_for(sub {
        sysread $out, $text, 65536, length $text
            if IO::Select->new($out)->can_read(0.1);
        return (() = $text =~ /$pattern/g) > 1;
    });
    kill 'INT', $pid;
    waitpid $pid, 0;
    my $status = $?;
    close $out;
    return ($status, $text);
}

my ($status, $live) = watch(qr/^deliveries\.verified +3$/m, @url);
is $status, 0, 'watch ends by Ctrl-C';
like $live, qr/^store\.keys +1003$/m, 'a live table';
unlike $live, qr/\e/, 'without escapes where there is no terminal';
($status, $live) = watch(qr/"verified":3/, @url, '--json');
is $status, 0, 'watch --json ends by Ctrl-C';
is decode_json((split /\n/, $live)[1])->{zone}, 'hooks', 'a line each time';
runs 3, qr/cannot connect/, 'watch of nothing', '--unix', "$t->{dir}/nosuch",
    'watch';

# what is no API, or fails

runs 3, qr/cannot connect to http/, 'nobody there', '--url',
    'http://127.0.0.1:' . port() . '/', 'list';
runs 3, qr/cannot connect to unix/, 'no socket', '--unix', "$t->{dir}/none",
    'list';
runs 3, qr/no control API \(status 404\)/, 'another prefix', '--url',
    "$base/", 'list';
runs 3, qr/no such call/, 'a longer prefix', '--url', "$base/asana/x/", 'list';
runs 3, qr/not that of the control API/, 'broken JSON', '--url',
    "$base/broken/", 'list';
runs 3, qr/no control API/, 'another service', '--url', "$base/text/", 'list';
runs 3, qr/status 500/, 'an error', '--url', "$base/failing/", 'list';
runs 1, qr/forbids it \(403\)/, 'an address that is denied', '--url',
    "$base/denied/", 'list';
runs 1, qr/^asana-hook: \?\[2Jgone\?1m \(404\)$/, 'an error with escapes',
    '--url', "$base/hostile/", 'show', 'a';

# a server of another version, or another server, that escapes nothing

for my $command ('list', 'stats', 'watch 1') {
    my $text = $command =~ /watch/
        ? (watch(qr/zone/, '--url', "$base/raw/", '--json'))[1]
        : runs 0, qr/./, "--json of it, $command", '--url', "$base/raw/",
            '--json', $command;
    $text = (split /\n/, $text)[0];
    like $text, qr/a\\u007f\\u009b1m\\u202e\\u2066\\u061c\\u2028\xc3\xa9/,
        "$command: what a terminal obeys is escaped";
    my $json = decode_json($text);
    utf8::encode(my $got = $json->{zone} || $json->{hooks}[0]{key});
    is $got, $raw, 'and is the same';
}
runs 0, qr/\A[ -~\n]+\z/, 'stats of it', '--url', "$base/raw/", 'stats';
like +(watch(qr/zone/, '--url', "$base/raw/"))[1], qr/\A[ -~\n]+\z/,
    'and watched';

my $deaf_port = port();
my $deaf      = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1',
    LocalPort => $deaf_port,
    Listen    => 5
);
my @deaf = ('--url', "http://127.0.0.1:$deaf_port/");
runs 3, qr/no answer within 1 s/, 'silence', @deaf, '--timeout', 1, 'list';

sub answered {
    my ($answer, $pattern, $name) = @_;
    my $pid = fork;
    die $! unless defined $pid;
    if (!$pid) {
        # the one of the silence comes first
        while (my $c = $deaf->accept) {
            Receiver::read_request($c);
            syswrite $c, $answer;
            close $c;
        }
        POSIX::_exit(0);
    }
    runs 3, $pattern, $name, @deaf, 'list';
    kill 'KILL', $pid;
    waitpid $pid, 0;
    return;
}

my $json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
answered '', qr/closed without an answer/, 'a closed connection';
answered "nonsense\r\n\r\n", qr/not HTTP/, 'nonsense';
answered "${json}Content-Length: 999\r\n\r\n{\"hooks\":[]", qr/cut short/,
    'half an answer';
answered "$json\r\n{\"hooks\":[],\"next\":null} x", qr/not that of/,
    'more than an answer';

# a secret is neither among the arguments nor on the terminal

my $pid = open3(my $in, my $out, undef, $^X, 'tools/asana-hook', @url, 'put',
    'localhost/b');
wait_for(sub { open my $fh, '<', "/proc/$pid/cmdline" or return;
    my $line = <$fh>;
    return defined $line && $line =~ /asana-hook/ });
print {$in} $secret;
$in->flush;
for my $what (qw(cmdline environ)) {
    open my $fh, '<', "/proc/$pid/$what" or die $!;
    binmode $fh;
    my $bytes = do { local $/ = undef; <$fh> };
    close $fh;
    ok index($bytes, $secret) < 0, "/proc/PID/$what does not show the secret";
}
close $in;
push @printed, join '', <$out>;
waitpid $pid, 0;
is $?, 0, 'it was put';

SKIP: {
    my ($script) = grep {-x} map {"$_/script"} split /:/, $ENV{PATH};
    skip 'no script(1) for a terminal', 8
        if !$script || !open my $ptmx, '+<', '/dev/ptmx';

    # Types into the tool on a terminal, after its prompt.
    my $type = sub {
        my ($typed, @args) = @_;
        my $child = open3(my $keys, my $screen, undef, $script, '-qfc',
            "trap : INT; $^X tools/asana-hook @args; echo exit \$?; stty -a",
            '/dev/null');
        my $seen = '';
        my $read = sub {
            my ($until) = @_;
            return wait_for(sub {
                return 1 if $seen =~ $until;
                sysread $screen, $seen, 4096, length $seen
                    if IO::Select->new($screen)->can_read(0.1);
                return $seen =~ $until;
            });
        };
        $read->(qr/Secret: /) if defined $typed;
        print {$keys} $typed if defined $typed;
        $keys->flush;
        $read->(qr/ -?echoke/) or kill 'TERM', $child;
        close $keys;
        waitpid $child, 0;
        push @printed, $seen;
        return $seen;
    };

    my $seen = $type->("$secret\n", @url, 'put', 'localhost/c');
    like $seen, qr/Secret: \r?\nprovisioned/, 'put on a terminal asks';
    like $seen, qr/^exit 0/m, 'and is done';
    ok index($seen, $secret) < 0, 'the terminal does not show the secret';
    like $seen, qr/ echo /, 'and shows what is typed again later';

    $seen = $type->("tool-012\x03", @url, 'put', 'localhost/d');
    like $seen, qr/^exit 130/m, 'Ctrl-C ends it';
    like $seen, qr/ echo /, 'and the terminal shows what is typed';

    $seen = $type->(undef, @url, 'list');
    like $seen, qr/^localhost\/c +$id/m, 'list on a terminal';
    unlike $seen, qr/\e/, 'has no escapes';
}

# secrets are encrypted anew

runs 1, qr/no encryption_key.* \(409\)$/, 'reseal in clear', @url, 'reseal';
runs 1, qr/not allowed here.* \(405\)$/, 'reseal without write=on', '--url',
    "$base/read/", 'reseal';
runs 3, qr/there is no control API/, 'reseal elsewhere', '--url',
    "$base/text/", 'reseal';
runs 2, qr/wrong number/, 'reseal KEY', @url, 'reseal', 'localhost/a';

my $sealed = Receiver->new(
    zone   => 'encryption_key=KEYS',
    server => 'location /api/ { asana_hook_api hooks write=on; }'
);
my @sealed_url = ('--url', "http://127.0.0.1:$sealed->{port}/api/");
my @key_ids = map { substr sha256_hex(chr($_) x 32), 0, 8 } 1 .. 3;

sub with_keys {
    $sealed->write_file('keys', join '', map { sprintf('%02x', $_) x 32 . "\n" }
            @_);
    chmod 0600, "$sealed->{dir}/keys";
    $sealed->{zone} = "encryption_key=$sealed->{dir}/keys";
    return $sealed->conf;
}

sub put_keys {
    return grep { $_->{status} == 201 } $sealed->many(map {
        "PUT /api/hooks?key=k$_ HTTP/1.1\r\nHost: x\r\n"
            . "X-Hook-Secret: $secret\r\n\r\n"
    } @_);
}

$sealed->run(with_keys(1));
is scalar(put_keys(1 .. 2200)), 2200, '2,200 secrets of the old key';
ok $sealed->reload(with_keys(2, 1)), 'the new key';
runs 0, qr/^store\.secrets_by_$key_ids[1] +0\nstore\.secrets_by_$key_ids[0] +2200$/m,
    'stats', @sealed_url, 'stats';
is runs(0, qr/./, 'reseal', @sealed_url, 'reseal'),
    "2200 encrypted by the first key, 0 left by other keys\n", 'all of them';
is runs(0, qr/./, 'reseal --json', @sealed_url, '--json', 'reseal'),
    qq({"resealed":0,"left":0}\n), 'none is left';
ok $sealed->reload(with_keys(3)), 'a key that was forgotten';
is scalar(put_keys(3000)), 1, 'a secret';
runs 1, qr/^0 encrypted by the first key, 2200 left by other keys\nasana-hook: 2200 cannot be decrypted, .*add.* keys/,
    'reseal without the old key', @sealed_url, 'reseal';
is runs(1, qr/^\{/, 'reseal --json', @sealed_url, '--json', 'reseal')
    =~ s/^asana-hook.*\n//mr, qq({"resealed":0,"left":2200}\n), 'the same';
$sealed->end;

is scalar(grep { index($_, $secret) >= 0 || index($_, $other) >= 0 } @printed),
    0, 'nothing that was printed has a secret';
$t->secrecy($secret, $other);
$t->end;

done_testing;
