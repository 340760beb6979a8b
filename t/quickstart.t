# Tests for quickstart: it shows all of it, also where PATH has no /usr/sbin.

use strict;
use warnings;

use lib 't/lib';

use File::Temp qw(tempdir);
use Test::More;

use Postgres;
use Receiver qw(port wait_for);

plan skip_all => 'it uses the nginx that is installed'
    if $ENV{ASANA_HOOK_STATIC} || $ENV{TEST_NGINX_BINARY};

my $text = qx(PATH=/usr/local/bin:/usr/bin:/bin ./quickstart 2>&1);
is $?, 0, 'it ends well' or diag $text;
like $text, qr/^All of this worked\. Nothing is left running\.$/m,
    'and says so';
like $text, qr/^ +VERIFIED: the application got "POST \S+ VERIFIED events=1"$/m,
    'the application is told the verdict';
like $text, qr/^ +asana_hook_zone .*\n.* state=DIR\/state/m,
    'it shows its configuration';

# what it is asked wrongly

for my $wrong ('serve --app', 'serve --port 80', 'fleet --app 80', 'bogus') {
    $text = qx(./quickstart $wrong 2>&1);
    is $? >> 8, 2, "wrong: $wrong";
    like $text, qr/^quickstart serve --app PORT$/m, 'it says what is right';
}
for my $port ("''", qw(0 65536 4294967297 -1 8o)) {
    $text = qx(./quickstart serve --app $port 2>&1);
    is $? >> 8, 2, "wrong: --app $port";
    is $text, "quickstart: --app wants a port from 1 to 65535\n", 'it says so';
}

# an application of one's own: all that it prints is tried

my $dir = tempdir(TMPDIR => 1, CLEANUP => 1);
my $app_port = port();
my %pid;

$pid{serve} = start('./quickstart', 'serve', '--app', $app_port);
my $told = wait_for(sub {
    my $out = slurp("$dir/serve");
    return $out =~ /webhooks\n\z/ ? $out : undef;
}, 60) // '';
like $told, qr/^ +VERIFIED: 502$/m, 'no application yet';
like $told, qr/^ +does your application listen on 127\.0\.0\.1:$app_port\?$/m,
    'it says so';
like $told, qr/^ +location \/ \{\n +asana_hook hooks;$/m,
    'it shows its configuration';

$pid{app} = start($^X, 'tools/demo-app', $app_port, "$dir/app.log");
wait_for(sub { qx(curl -s http://127.0.0.1:$app_port/) }) // die;
unlink "$dir/app.log";

my @commands = $told =~ /^  (curl .*?(?:\\\n.*)?)$/mg;
is scalar(@commands), 7, 'what it gives to try';
my @got = map { scalar qx($_ 2>/dev/null) } @commands;
like $got[0], qr/"X-Hook-Secret"/, 'a webhook is created';
like $got[1], qr/"content":"taken\\n",.*"status":200/, 'it takes an event';
is slurp("$dir/app.log"), "POST /receive-webhook/1201 VERIFIED events=1\n"
    . "POST /receive-webhook/1200 VERIFIED events=1\n" x 2,
    'the application gets it, the first one once more, and its retry';
like $got[2], qr/"last_status" : 502,.*"last_status" : 200,/s, 'the webhooks';
like $got[3], qr/"id" : 1,.*"id" : 2,/s, 'the deliveries';
like $got[4], qr/"ok":true,/, 'one once more';
like $got[5], qr/"attempts":1,/, 'an hour: one retry';
like $got[6], qr/^HTTP\/1\.1 403 /, 'a forged one';

my ($access, $log) = $told =~ /^  tail -f (\S+) (\S+)$/m;
like slurp($access), qr/ 403 \S+ -\n\z/, 'what nginx decided';
like slurp($log), qr/"content":"taken\\n",.*"status":200/,
    'what the application answered';

my ($api, $gateway) = $told =~ /^  (http:.*)\n  (http:.*)\n\z/m;
my $target = $gateway =~ s{/asana/.*}{/its/own/path}r;
my $list = qx(curl -s -H 'Authorization: Bearer x' '$api?workspace=1');
like $list, qr{receive-webhook/1201}, 'the API of Asana';
for my $n (1, 2) {
    my ($gid) = qx(curl -s -d resource=1 -d target=$target $gateway)
        =~ /"gid":"(\d+)"/;
    ok $gid, "the application creates one through nginx: $n";
    is qx(curl -s -X DELETE $gateway/$gid -o /dev/null -w '%{http_code}'), 200,
        'and deletes it';
}
my ($control) = $told =~ m{^  (tools/asana-hook --url http\S+ list)$}m;
like qx($control), qr{^localhost/receive-webhook/1201 .* ok .* 200 }m,
    "the operator's command";
my ($page) = $told =~ m{^  (http://\S+/)$}m;
like qx(curl -s -H 'Accept: text/html' $page), qr/^<!DOCTYPE html>/, 'a page';

kill 'INT', $pid{serve};
waitpid delete $pid{serve}, 0;
is $? >> 8, 130, 'Ctrl-C ends it';
ok !-e $access, 'nothing is left of it';
is qx(curl -s '$api' -w '%{http_code}'), '000', 'and nothing runs';
kill 'TERM', $pid{app};
waitpid delete $pid{app}, 0;

SKIP: {
    my $missing = Postgres->missing;
    skip $missing, 1 if $missing;

    $text = qx(PATH=/usr/local/bin:/usr/bin:/bin ./quickstart fleet 2>&1);
    is $?, 0, 'a fleet: it ends well' or diag $text;
    like $text, qr/^All of this worked\. Nothing is left running\.$/m,
        'and says so';
    like $text, qr/^ +verified: [1-9] by host one, [1-9] by host two$/m,
        'both hosts verify';
    like $text, qr/^ +state=postgresql:\S+\n +encryption_key=DIR\/key;$/m,
        'it shows its configuration';

    # an ordinary user, as whom PostgreSQL runs itself

    my $so = 'build/ngx_http_asana_hook_postgres_module.so';
    skip 'nobody else can be asked', 1
        if $> != 0 || system("runuser -u nobody -- test -r $so 2>/dev/null");
    $text = qx(runuser -u nobody -- ./quickstart fleet 2>&1);
    is $?, 0, 'it does not need root' or diag $text;
}

done_testing;

sub start {
    my @command = @_;
    my $pid = fork // die "fork: $!\n";
    return $pid if $pid;
    open STDOUT, '>', "$dir/serve" or die "serve: $!\n";

    # a shell that runs the tests in the background has it ignored
    local $SIG{INT} = 'DEFAULT';
    exec @command or die "exec: $!\n";
}

sub slurp {
    my ($path) = @_;
    open my $fh, '<', $path or return '';
    local $/ = undef;
    return scalar <$fh>;
}

END { kill 'TERM', values %pid if %pid }
