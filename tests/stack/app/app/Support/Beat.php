<?php

namespace App\Support;

use Illuminate\Support\Facades\DB;
use Illuminate\Support\Facades\Redis;

class Beat
{
    /** The container's own health check looks at the file; others at Redis and the table. */
    public static function record(string $name): void
    {
        @touch("/run/chom/$name.beat");
        Redis::connection()->set("$name:heartbeat", (string) time());
        DB::table('heartbeats')->upsert(
            [['name' => $name, 'host' => gethostname(), 'beaten_at' => now()]],
            ['name'],
            ['host', 'beaten_at']
        );
    }

    public static function age(string $name): ?int
    {
        $at = Redis::connection()->get("$name:heartbeat");

        return is_numeric($at) ? max(0, time() - (int) $at) : null;
    }
}
