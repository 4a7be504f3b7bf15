<?php

use Illuminate\Database\Migrations\Migration;
use Illuminate\Database\Schema\Blueprint;
use Illuminate\Support\Facades\Schema;

return new class extends Migration
{
    public function up(): void
    {
        Schema::create('users', function (Blueprint $t): void {
            $t->id();
            $t->string('name', 190);
            $t->string('email', 190)->unique();
            $t->string('password');
            $t->text('phone')->nullable()->comment('encrypted with APP_KEY');
            $t->enum('role', ['owner', 'admin', 'member'])->default('member')->index();
            $t->json('preferences')->nullable();
            $t->binary('avatar')->nullable();
            $t->decimal('balance', 12, 2)->default(0);
            $t->timestamp('last_login_at')->nullable();
            $t->timestamp('created_at')->useCurrent();
            $t->timestamp('updated_at')->useCurrent()->useCurrentOnUpdate();
        });

        Schema::create('api_tokens', function (Blueprint $t): void {
            $t->id();
            $t->foreignId('user_id')->constrained()->cascadeOnDelete();
            $t->char('token_hash', 64)->unique();
            $t->dateTime('expires_at')->index();
            $t->timestamps();
        });

        Schema::create('sites', function (Blueprint $t): void {
            $t->id();
            $t->foreignId('user_id')->constrained()->cascadeOnDelete();
            $t->string('domain', 190)->unique();
            $t->string('title')->nullable();
            $t->enum('status', ['pending', 'active', 'suspended'])->default('pending');
            $t->unsignedBigInteger('storage_bytes')->default(0);
            $t->decimal('storage_gib', 12, 3)->virtualAs('round(storage_bytes / 1073741824, 3)');
            $t->dateTime('tls_expires_at', 6)->nullable();
            $t->json('settings')->nullable();
            $t->timestamp('created_at')->useCurrent();
            $t->timestamp('updated_at')->useCurrent()->useCurrentOnUpdate();
            $t->index(['user_id', 'status']);
        });

        Schema::create('orders', function (Blueprint $t): void {
            $t->id();
            $t->foreignId('user_id')->constrained()->restrictOnDelete();
            $t->foreignId('site_id')->nullable()->constrained()->nullOnDelete();
            $t->string('reference', 26)->unique();
            $t->unsignedInteger('quantity');
            $t->decimal('unit_price', 10, 4);
            $t->decimal('tax_rate', 5, 4)->default(0);
            $t->decimal('total', 16, 2)->storedAs('round(quantity * unit_price * (1 + tax_rate), 2)');
            $t->enum('status', ['new', 'paid', 'shipped', 'cancelled'])->default('new');
            $t->text('note')->nullable();
            $t->timestamp('placed_at', 6)->useCurrent();
            $t->index(['status', 'placed_at']);
        });

        Schema::create('audit_log', function (Blueprint $t): void {
            $t->id();
            $t->unsignedBigInteger('user_id')->nullable()->index();
            $t->string('action', 60);
            $t->string('subject', 190)->nullable()->index();
            $t->json('payload')->nullable();
            $t->timestamp('created_at', 6)->useCurrent()->index();
        });

        Schema::create('uploads', function (Blueprint $t): void {
            $t->uuid('id')->primary();
            $t->foreignId('user_id')->constrained()->cascadeOnDelete();
            $t->string('path', 190)->unique();
            $t->string('original_name', 190);
            $t->unsignedBigInteger('size');
            $t->char('sha256', 64);
            $t->timestamp('created_at')->useCurrent();
        });

        Schema::create('failed_jobs', function (Blueprint $t): void {
            $t->id();
            $t->string('uuid')->unique();
            $t->text('connection');
            $t->text('queue');
            $t->longText('payload');
            $t->longText('exception');
            $t->timestamp('failed_at')->useCurrent();
        });

        Schema::create('heartbeats', function (Blueprint $t): void {
            $t->string('name', 60)->primary();
            $t->string('host', 190)->nullable();
            $t->dateTime('beaten_at');
        });
    }

    public function down(): void
    {
        foreach (['heartbeats', 'failed_jobs', 'uploads', 'audit_log', 'orders', 'sites', 'api_tokens', 'users'] as $table) {
            Schema::dropIfExists($table);
        }
    }
};
