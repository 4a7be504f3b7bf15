<?php

namespace App\Console\Commands;

use App\Models\User;
use Illuminate\Console\Command;
use Illuminate\Support\Facades\Crypt;
use Illuminate\Support\Facades\DB;
use Illuminate\Support\Facades\Hash;

class Seed extends Command
{
    protected $signature = 'chom:seed {--users=200 : how many users to add} {--if-empty : only if the data is not there yet}';

    protected $description = 'Add the synthetic login and deterministic data';

    private const LOGIN = 'synthetic@example.test';

    /** No password matches it. */
    private const NO_LOGIN = '$2y$10$abcdefghijklmnopqrstuuXb7Y5Qp0R1sT2uV3wX4yZ5aB6cD7eF8';

    private const FIRST = ['Zoë', 'José', 'Łukasz', 'Anaïs', 'Søren', 'Ngọc', 'Müge', "O'Neil", '美咲', 'Дмитрий', 'محمد', 'Aoife'];

    private const LAST = ['Müller', 'García', 'Nguyễn', 'Ødegård', 'Smith', '田中', 'Иванова', 'Şahin', 'D’Arcy', 'Back\\slash', 'Quote"d', 'Ωmega'];

    private const NOTES = [null, 'Deliver to the back door 🚪', "line one\nline two\ttab", '100 % sure; -- not a comment', "it's \\ fine", '👩‍👩‍👧‍👦 family', ''];

    public function handle(): int
    {
        $count = max(0, (int) $this->option('users'));
        if ($this->option('if-empty')) {
            // The synthetic login is made last: it stands for a seed that is complete.
            if (DB::table('users')->where('email', self::LOGIN)->exists()) {
                $this->line('seeded already: nothing to do');

                return self::SUCCESS;
            }
            $count = max(0, $count - DB::table('users')->count());
        }
        $from = (int) DB::table('users')->max('id');
        for ($done = 0; $done < $count; $done += 500) {
            DB::transaction(fn () => $this->block($from + $done + 1, min(500, $count - $done)));
        }
        $this->typeSamples();
        $this->syntheticUser();
        $this->line('users='.DB::table('users')->count().' orders='.DB::table('orders')->count());

        return self::SUCCESS;
    }

    private function syntheticUser(): void
    {
        $file = (string) config('app.synthetic_password_file');
        if ($file === '' || ! is_readable($file)) {
            $this->warn('no SYNTHETIC_PASSWORD_FILE: no synthetic login');

            return;
        }
        $user = User::query()->where('email', self::LOGIN)->first() ?? new User;
        $user->forceFill([
            'email' => self::LOGIN,
            'name' => 'Synthetic Probe',
            'password' => Hash::make(rtrim(file_get_contents($file), "\r\n")),
            'phone' => '+49 30 0000000',
            'role' => 'member',
            'preferences' => ['synthetic' => true],
        ])->save();
    }

    private function block(int $first, int $count): void
    {
        $users = $sites = $orders = $audit = [];
        $epoch = 1704067200; // 2024-01-01: data must not depend on the day it is made
        for ($id = $first; $id < $first + $count; $id++) {
            mt_srand($id);
            $name = self::FIRST[$id % count(self::FIRST)].' '.self::LAST[intdiv($id, 12) % count(self::LAST)];
            $created = gmdate('Y-m-d H:i:s', $epoch + $id * 3607 % 60000000);
            $users[] = [
                'id' => $id,
                'name' => $name,
                'email' => "user$id@example.test",
                'password' => self::NO_LOGIN,
                'phone' => $id % 5 === 0 ? null : Crypt::encryptString(sprintf('+49 30 %07d', $id)),
                'role' => ['member', 'member', 'admin', 'owner'][$id % 4],
                'preferences' => $id % 7 === 0 ? null : json_encode(['theme' => $id % 2 ? 'dark' : 'light', 'tags' => ['α', '🙂', "t$id"], 'limit' => $id * 1.5, 'nested' => ['a' => null]], JSON_UNESCAPED_UNICODE),
                'avatar' => $id % 10 === 0 ? $this->bytes($id, 64 + $id % 2048) : null,
                'balance' => sprintf('%d.%02d', mt_rand(-5000, 90000), mt_rand(0, 99)),
                'last_login_at' => $id % 3 ? null : $created,
                'created_at' => $created,
                'updated_at' => $created,
            ];
            for ($i = 0; $i < 1 + $id % 2; $i++) {
                $sites[] = [
                    'user_id' => $id,
                    'domain' => "site$i-$id.example.test",
                    'title' => $id % 6 === 0 ? null : "{$name}’s shop 🛒 #$i",
                    'status' => ['pending', 'active', 'suspended'][($id + $i) % 3],
                    'storage_bytes' => mt_rand(0, 2 ** 40),
                    'tls_expires_at' => $id % 4 ? gmdate('Y-m-d H:i:s', $epoch + mt_rand(0, 80000000)).sprintf('.%06d', mt_rand(0, 999999)) : null,
                    'settings' => json_encode(['php' => '8.'.$id % 5, 'redirects' => ['/a' => '/b', '/ü' => '/u']], JSON_UNESCAPED_UNICODE),
                    'created_at' => $created,
                    'updated_at' => $created,
                ];
            }
            for ($i = 0; $i < $id % 5; $i++) {
                $orders[] = [
                    'user_id' => $id,
                    'reference' => strtoupper(substr(hash('sha256', "order-$id-$i"), 0, 26)),
                    'quantity' => mt_rand(1, 40),
                    'unit_price' => sprintf('%d.%04d', mt_rand(0, 400), mt_rand(0, 9999)),
                    'tax_rate' => ['0.0000', '0.0700', '0.1900', '0.2000'][$id % 4],
                    'status' => ['new', 'paid', 'shipped', 'cancelled'][($id + $i) % 4],
                    'note' => self::NOTES[($id + $i) % count(self::NOTES)],
                    'placed_at' => gmdate('Y-m-d H:i:s', $epoch + mt_rand(0, 60000000)).sprintf('.%06d', mt_rand(0, 999999)),
                ];
            }
            $audit[] = [
                'user_id' => $id % 9 ? $id : null,
                'action' => 'user.created',
                'subject' => "user:$id",
                'payload' => $id % 2 ? json_encode(['ip' => '192.0.2.'.$id % 250, 'ua' => 'Mozilla/5.0 «test»'], JSON_UNESCAPED_UNICODE) : null,
                'created_at' => $created.sprintf('.%06d', mt_rand(0, 999999)),
            ];
        }
        foreach (['users' => $users, 'sites' => $sites, 'orders' => $orders, 'audit_log' => $audit] as $table => $rows) {
            foreach (array_chunk($rows, 250) as $chunk) {
                DB::table($table)->insert($chunk);
            }
        }
        DB::statement('UPDATE orders o JOIN sites s ON s.user_id = o.user_id SET o.site_id = s.id WHERE o.site_id IS NULL AND o.user_id BETWEEN ? AND ? AND o.quantity % 2 = 0', [$first, $first + $count - 1]);
    }

    private function typeSamples(): void
    {
        if (DB::table('type_samples')->exists()) {
            return;
        }
        for ($i = 1; $i <= 24; $i++) {
            DB::statement(
                'INSERT INTO type_samples (id, c_bool, c_bigint, c_float, c_double, c_decimal, c_bit, c_date, c_time, c_year, c_datetime, c_timestamp,
                 c_char, c_varchar, c_bin_text, c_varbinary, c_blob, c_mediumblob, c_longtext, c_json, c_enum, c_set, c_point)
                 VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,ST_GeomFromText(?))',
                [
                    $i, $i % 2, $i === 1 ? '18446744073709551615' : (string) ($i * 1000003), $i / 3, M_PI * 10 ** ($i - 12),
                    '-12345678901234567890.'.sprintf('%010d', $i), $i * 170 % 4096, gmdate('Y-m-d', $i * 86400 * 397), sprintf('-%02d:59:59.%03d', $i, $i),
                    1970 + $i, sprintf('2024-02-29 23:59:59.%06d', $i), sprintf('2024-06-01 12:00:%02d.%03d', $i, $i),
                    'café', str_repeat('é', $i), "Case$i 𝒳", $this->bytes($i, 16), $this->bytes($i, 200 * $i), $this->bytes($i, $i === 24 ? 300000 : 1000),
                    str_repeat("row $i: “text” with 🧨 and \\0 and '; DROP\n", 20 * $i), json_encode(['i' => $i, 'deep' => [['k' => '€']]], JSON_UNESCAPED_UNICODE),
                    ['a', 'b', "it's"][$i % 3], ['red', 'red,blue', 'green,blue', ''][$i % 4], "POINT($i.5 -$i.25)",
                ]
            );
        }
        DB::statement('INSERT INTO type_samples (id) VALUES (25)'); // all NULL
    }

    /** Every byte value, NUL and invalid UTF-8 included. */
    private function bytes(int $seed, int $length): string
    {
        $out = '';
        for ($i = 0; strlen($out) < $length; $i++) {
            $out .= hash('sha256', "$seed/$i", true);
        }

        return substr("\0\xff\xfe'\\".$out, 0, $length);
    }
}
