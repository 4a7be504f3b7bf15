<?php

namespace App\Http\Controllers;

use App\Support\Beat;
use Illuminate\Http\JsonResponse;
use Illuminate\Support\Facades\DB;
use Illuminate\Support\Facades\Queue;
use Illuminate\Support\Facades\Redis;

class StatusController
{
    public function home(): JsonResponse
    {
        return response()->json(['name' => config('app.name'), 'version' => config('app.version')]);
    }

    public function health(): JsonResponse
    {
        $checks = $this->checks();
        $ok = ! in_array(false, array_column($checks, 'ok'), true);

        return response()->json(['status' => $ok ? 'ok' : 'down', 'checks' => $checks], $ok ? 200 : 503);
    }

    public function status(): JsonResponse
    {
        $checks = $this->checks();
        $db = $checks['database']['ok'];
        $redis = $checks['redis']['ok'];
        $ok = $db && $redis;

        return response()->json([
            'status' => $ok ? 'ok' : 'down',
            'version' => config('app.version'),
            'framework' => app()->version(),
            'php' => PHP_VERSION,
            'maintenance' => app()->isDownForMaintenance(),
            'database' => $checks['database'] + ['version' => $db ? DB::selectOne('SELECT VERSION() AS v')->v : null],
            'redis' => $checks['redis'],
            'queue' => ['depth' => $redis ? Queue::size() : null, 'heartbeat_age_s' => $redis ? Beat::age('queue') : null],
            'scheduler' => ['heartbeat_age_s' => $redis ? Beat::age('scheduler') : null],
            'users' => $db ? DB::table('users')->count() : null,
            'orders' => $db ? DB::table('orders')->count() : null,
            'failed_jobs' => $db ? DB::table('failed_jobs')->count() : null,
        ], $ok ? 200 : 503);
    }

    private function checks(): array
    {
        return [
            'database' => $this->check(static fn () => (int) DB::selectOne('SELECT 1 AS one')->one === 1),
            'redis' => $this->check(static fn () => (bool) Redis::connection()->ping()),
        ];
    }

    private function check(callable $probe): array
    {
        $begin = microtime(true);
        try {
            $ok = $probe();
        } catch (\Throwable $e) {
            report($e);
            $ok = false;
        }

        return ['ok' => $ok, 'ms' => round((microtime(true) - $begin) * 1000, 1)];
    }
}
